// Package tollway_test holds the rules of the house: who may import whom, what
// every package says about itself, and what no file may contain. It reads the
// repository it lies in and nothing else; a broken rule is a failed test whose
// text says why the rule is there.
package tollway_test

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tollway/tollway/"

// goFile is one Go file, parsed with comments.
type goFile struct {
	name string // slash-separated, from the root of the repository
	dir  string
	test bool // a _test.go file
	ast  *ast.File
	fset *token.FileSet
}

// imports lists the import paths; those of this project without the module.
func (f goFile) imports() (own, foreign []string) {
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // go build refuses it
		}
		if rest, ok := strings.CutPrefix(p, module); ok {
			own = append(own, rest)
		} else {
			foreign = append(foreign, p)
		}
	}
	return own, foreign
}

func (f goFile) generated() bool { return ast.IsGenerated(f.ast) }

// within tells whether path is folder or lies in it.
func within(path string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		return path == folder || strings.HasPrefix(path, folder+"/")
	})
}

func standardLibrary(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

// walk calls visit with every file of the repository that a person wrote or
// committed: no hidden folder, nothing fetched, built or measured.
func walk(t *testing.T, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // removed while we walk
			}
			return err
		}
		name := filepath.ToSlash(p)
		if !d.IsDir() {
			visit(name)
			return nil
		}
		hidden := strings.HasPrefix(d.Name(), ".") && name != "." && name != ".ci"
		if hidden || d.Name() == "node_modules" || name == "bin" || name == "data" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatalf("walk the repository: %v", err)
	}
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	fset := token.NewFileSet()
	var files []goFile
	walk(t, func(name string) {
		if path.Ext(name) != ".go" || strings.Contains(name, "/testdata/") {
			return
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		files = append(files, goFile{
			name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), ast: f, fset: fset,
		})
	})
	if len(files) < 10 {
		t.Fatalf("found only %d Go files: this test must run in the root of the repository", len(files))
	}
	return files
}

// importRule says what the files it applies to may not import, and why.
type importRule struct {
	name    string
	applies func(f goFile) bool
	// forbidden gets an import path, of this project without the module.
	forbidden func(f goFile, importPath string, own bool) bool
	reason    string
}

// purePackages compute and do nothing else. A file listed here may not exist
// yet; the rule is there before the package.
var purePackages = []string{
	"pipelines/call", "pipelines/dedupe", "pipelines/attribute",
	"services/billing/rating", "services/quota/engine",
}

// impure is everything through which a computation could depend on something
// that is not its argument.
var impure = []string{
	"net", "database/sql", "os",
	"github.com/segmentio/kafka-go", "github.com/twmb/franz-go",
	"github.com/ClickHouse", "google.golang.org/grpc", "modernc.org/sqlite", "github.com/jackc/pgx",
}

// pureExceptions parse addresses and open no connection.
var pureExceptions = []string{"net/netip", "net/url"}

// kafkaClients may speak Kafka through kafka-go themselves.
var kafkaClients = []string{
	"services/platform/kafkaio",
	"services/platform/testenv", // asks a fresh broker whether it is ready, below kafkaio
	"loadtest",                  // judges the product from outside, so not with the product's own client code
}

// schemaRuntime is what generated protobuf, gRPC and gateway code needs.
var schemaRuntime = []string{
	"google.golang.org/protobuf", "google.golang.org/grpc", "google.golang.org/genproto",
	"github.com/grpc-ecosystem/grpc-gateway",
}

func service(dir string) string {
	rest, ok := strings.CutPrefix(dir, "services/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

var importRules = []importRule{
	{
		name:    "schemas need the protobuf runtime only",
		applies: func(f goFile) bool { return within(f.dir, "schemas") && !f.test },
		forbidden: func(_ goFile, p string, own bool) bool {
			if own {
				return !within(p, "schemas")
			}
			return !standardLibrary(p) && !within(p, schemaRuntime...)
		},
		reason: "whoever calls Tollway imports this module, and would get everything that it imports",
	},
	{
		name:    "sql needs the standard library only",
		applies: func(f goFile) bool { return within(f.dir, "sql") && !f.test },
		forbidden: func(_ goFile, p string, own bool) bool {
			if own {
				return !within(p, "sql")
			}
			return !standardLibrary(p)
		},
		reason: "sql holds text that a database executes; who executes it is the business of the service or pipeline that asks",
	},
	{
		name:    "platform knows no business word",
		applies: func(f goFile) bool { return within(f.dir, "services/platform") },
		forbidden: func(_ goFile, p string, own bool) bool {
			return own && (within(p, "pipelines", "cmd", "loadtest") || within(p, "services") && !within(p, "services/platform"))
		},
		reason: "every service and pipeline stands on services/platform; what it imported, all of them would depend on",
	},
	{
		name: "a service does not import another service",
		applies: func(f goFile) bool {
			return service(f.dir) != "" && service(f.dir) != "platform"
		},
		forbidden: func(f goFile, p string, own bool) bool {
			other := service(p)
			return own && other != "" && other != "platform" && other != service(f.dir)
		},
		reason: "each service must be deployable alone: declare a small interface where you need one, and let cmd pass the implementation",
	},
	{
		name:      "nobody imports cmd",
		applies:   func(f goFile) bool { return !within(f.dir, "cmd") },
		forbidden: func(_ goFile, p string, own bool) bool { return own && within(p, "cmd") },
		reason:    "cmd connects the parts; a part that imports cmd imports all of them",
	},
	{
		name:    "pure packages only compute",
		applies: func(f goFile) bool { return within(f.dir, purePackages...) && !f.test },
		forbidden: func(f goFile, p string, own bool) bool {
			if own {
				return !within(p, "schemas", "pipelines/call", f.dir)
			}
			return within(p, impure...) && !slices.Contains(pureExceptions, p)
		},
		reason: "what these packages say must follow from their arguments alone, so that an invoice can be computed again to the same cent; pass results in, not clients",
	},
	{
		name:      "loadtest sees Tollway from outside",
		applies:   func(f goFile) bool { return within(f.dir, "loadtest") },
		forbidden: func(_ goFile, p string, own bool) bool { return own && !within(p, "schemas", "loadtest") },
		reason:    "loadtest proves what was sent is what was billed; with the product's own code it would repeat the product's mistakes",
	},
	{
		name:      "Kafka is spoken in one place",
		applies:   func(f goFile) bool { return !within(f.dir, kafkaClients...) },
		forbidden: func(_ goFile, p string, _ bool) bool { return within(p, "github.com/segmentio/kafka-go") },
		reason:    "acknowledgement and fencing are decided in services/platform/kafkaio; a second client would be a second set of decisions (tests that need a raw client take one from there)",
	},
}

func TestImports(t *testing.T) {
	files := goFiles(t)
	for _, rule := range importRules {
		t.Run(strings.ReplaceAll(rule.name, " ", "_"), func(t *testing.T) {
			for _, f := range files {
				if rule.applies(f) {
					checkImports(t, rule, f)
				}
			}
		})
	}
}

func checkImports(t *testing.T, rule importRule, f goFile) {
	t.Helper()
	own, foreign := f.imports()
	for _, p := range own {
		if rule.forbidden(f, p, true) {
			t.Errorf("%s imports %s, but %s: %s", f.name, p, rule.name, rule.reason)
		}
	}
	for _, p := range foreign {
		if rule.forbidden(f, p, false) {
			t.Errorf("%s imports %s, but %s: %s", f.name, p, rule.name, rule.reason)
		}
	}
}

// The rules themselves are tested: a rule that refuses nothing is no rule.
func TestImportRulesRefuse(t *testing.T) {
	cases := []struct {
		file, source string
		want         string // the rule that refuses, "" for none
	}{
		{"schemas/x/x.go", `import _ "google.golang.org/grpc/codes"`, ""},
		{"schemas/x/x.go", `import _ "github.com/rs/zerolog"`, "schemas need the protobuf runtime only"},
		{"sql/x.go", `import _ "embed"`, ""},
		{"sql/x.go", `import _ "github.com/ClickHouse/clickhouse-go/v2"`, "sql needs the standard library only"},
		{"services/platform/x/x.go", `import _ "` + module + `pipelines/call"`, "platform knows no business word"},
		{"services/platform/x/x.go", `import _ "` + module + `services/platform/config"`, ""},
		{"services/reports/x.go", `import _ "` + module + `services/platform/auth"`, ""},
		{"services/reports/x.go", `import _ "` + module + `services/reports/sql"`, ""},
		{"services/reports/x.go", `import _ "` + module + `services/catalog"`, "a service does not import another service"},
		{"services/reports/x.go", `import _ "` + module + `cmd/tollway"`, "nobody imports cmd"},
		{"pipelines/dedupe/x.go", `import _ "` + module + `pipelines/call"`, ""},
		{"pipelines/dedupe/x.go", `import _ "net/netip"`, ""},
		{"pipelines/dedupe/x.go", `import _ "net/http"`, "pure packages only compute"},
		{"pipelines/dedupe/x.go", `import _ "` + module + `services/platform/clickhouse"`, "pure packages only compute"},
		{"loadtest/x/x.go", `import _ "` + module + `schemas/proto/x"`, ""},
		{"loadtest/x/x.go", `import _ "` + module + `pipelines/call"`, "loadtest sees Tollway from outside"},
		{"loadtest/x/x.go", `import _ "github.com/segmentio/kafka-go"`, ""},
		{"pipelines/delivery/x.go", `import _ "github.com/segmentio/kafka-go"`, "Kafka is spoken in one place"},
	}
	for _, c := range cases {
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, c.file, "package x\n"+c.source, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := goFile{name: c.file, dir: path.Dir(c.file), ast: parsed, fset: fset}
		var got []string
		for _, rule := range importRules {
			if rule.applies(f) && refuses(rule, f) {
				got = append(got, rule.name)
			}
		}
		want := []string{c.want}
		if c.want == "" {
			want = nil
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s with %s is refused by %q, want %q", c.file, c.source, got, want)
		}
	}
}

func refuses(rule importRule, f goFile) bool {
	own, foreign := f.imports()
	return slices.ContainsFunc(own, func(p string) bool { return rule.forbidden(f, p, true) }) ||
		slices.ContainsFunc(foreign, func(p string) bool { return rule.forbidden(f, p, false) })
}

// A clock is an argument of a pure package, never something it looks at.
func TestPurePackagesHaveNoClock(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || !within(f.dir, purePackages...) {
			continue
		}
		for _, use := range clockUses(f) {
			t.Errorf("%s: %s in a pure package: pass the time in as an argument, so that the same input gives the same result on every day", use.at, use.call)
		}
	}
}

type clockUse struct {
	at   token.Position
	call string
}

func clockUses(f goFile) []clockUse {
	name := importName(f.ast, "time")
	if name == "" {
		return nil
	}
	clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"}
	var uses []clockUse
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || !slices.Contains(clock, sel.Sel.Name) {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == name {
			uses = append(uses, clockUse{f.fset.Position(sel.Pos()), "time." + sel.Sel.Name})
		}
		return true
	})
	return uses
}

// importName is the name under which a file sees a package, "" if it does not.
func importName(f *ast.File, importPath string) string {
	for _, spec := range f.Imports {
		if spec.Path.Value != strconv.Quote(importPath) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

func TestClockUsesAreFound(t *testing.T) {
	fset := token.NewFileSet()
	source := `package x
import clock "time"
var a = clock.Now()
var b = clock.Unix(0, 0)
func f(t clock.Time) clock.Duration { return clock.Since(t) }`
	parsed, err := parser.ParseFile(fset, "x.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := clockUses(goFile{ast: parsed, fset: fset}); len(got) != 2 {
		t.Errorf("found %d uses of the clock, want 2: %v", len(got), got)
	}
}

// A package says once, in one place, what it is for. Files for another build
// may say it again, so the builds are looked at one by one.
func TestPackageComments(t *testing.T) {
	files := goFiles(t)
	for _, tag := range []string{"", "faults"} {
		t.Run("tag="+tag, func(t *testing.T) {
			build := build.Default
			build.BuildTags = []string{tag}
			checkPackageComments(t, slices.DeleteFunc(slices.Clone(files), func(f goFile) bool {
				match, err := build.MatchFile(f.dir, path.Base(f.name))
				return err != nil || !match
			}))
		})
	}
}

func checkPackageComments(t *testing.T, files []goFile) {
	t.Helper()
	type pkg struct{ dir, name string }
	comments := map[pkg][]string{}
	for _, f := range files {
		// A package of nothing but generated files is described by its source, and
		// tests need no comment of their own; but one that is there counts.
		if f.generated() || f.test && f.ast.Doc == nil {
			continue
		}
		p := pkg{f.dir, strings.TrimSuffix(f.ast.Name.Name, "_test")}
		if _, known := comments[p]; !known {
			comments[p] = nil
		}
		if f.ast.Doc != nil {
			comments[p] = append(comments[p], f.name)
		}
	}
	for p, files := range comments {
		slices.Sort(files)
		switch {
		case len(files) == 0:
			t.Errorf("package %s has no package comment: say what comes in, what goes out, and what is lost when it crashes", p.dir)
		case len(files) > 1:
			t.Errorf("package %s has %d package comments, in %s: keep one, godoc would glue them together", p.dir, len(files), strings.Join(files, ", "))
		}
	}
}

// An error says what was being done; the chain of wrapped errors then reads as
// one sentence instead of repeating that something failed.
func TestErrorTexts(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || f.generated() {
			continue
		}
		for _, text := range errorTexts(f.ast) {
			if badErrorText.MatchString(text.Value) {
				t.Errorf("%s: error text %s: say what was being done (\"insert batch: %%w\"), that it failed is clear",
					f.fset.Position(text.Pos()), text.Value)
			}
		}
	}
}

var badErrorText = regexp.MustCompile(`(?i)\b(failed to|unable to|error while|an error occurred)\b`)

// errorTexts returns the literal first arguments of fmt.Errorf and errors.New.
func errorTexts(f *ast.File) []*ast.BasicLit {
	var texts []*ast.BasicLit
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok || x.Name+"."+sel.Sel.Name != "fmt.Errorf" && x.Name+"."+sel.Sel.Name != "errors.New" {
			return true
		}
		if text, ok := call.Args[0].(*ast.BasicLit); ok {
			texts = append(texts, text)
		}
		return true
	})
	return texts
}

func TestErrorTextsAreFound(t *testing.T) {
	source := `package x
var a = fmt.Errorf("failed to open: %w", err)
var b = errors.New("Unable to open")
var c = fmt.Errorf("open file: %w", err)
var d = fmt.Sprintf("failed to open")`
	parsed, err := parser.ParseFile(token.NewFileSet(), "x.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for _, text := range errorTexts(parsed) {
		if badErrorText.MatchString(text.Value) {
			bad++
		}
	}
	if bad != 2 {
		t.Errorf("found %d bad error texts, want 2", bad)
	}
}

// text tells files a person reads from those only a program does.
func text(name string) bool {
	switch path.Ext(name) {
	case ".go", ".md", ".sh", ".sql", ".proto", ".yaml", ".yml", ".json", ".xml", ".toml", ".txt",
		".html", ".css", ".js", ".ts", ".py", ".mod", ".work", ".properties", ".conf", ".tpl":
		return true
	}
	return path.Base(name) == "Makefile" || strings.HasPrefix(name, ".ci/")
}

// forbiddenText is spelled in pieces, so that this file does not match itself.
var forbiddenText = []struct {
	pattern *regexp.Regexp
	reason  string
}{
	{
		regexp.MustCompile(`(?i)\b(registry\.` + `npmjs|registry\.` + `yarnpkg|repo1?\.` + `maven|proxy\.` + `golang\.org|sum\.` + `golang\.org|pypi\.` + `org|files\.python` + `hosted)`),
		"a registry is named by the user's own npm, Maven, pip or Go settings, so that a mirror works",
	},
	{
		regexp.MustCompile(`(^|[\s"'=:(` + "`" + `])/` + `work/[a-z.]`),
		"a path of one machine means nothing on another: take it from the place of the file or from the environment",
	},
}

func TestForbiddenText(t *testing.T) {
	walk(t, func(name string) {
		if !text(name) || strings.Contains(name, "/third_party/") {
			return
		}
		body, err := os.ReadFile(name)
		if err != nil {
			if !os.IsNotExist(err) {
				t.Errorf("%v", err)
			}
			return
		}
		for i, line := range strings.Split(string(body), "\n") {
			for _, f := range forbiddenText {
				if found := f.pattern.FindString(line); found != "" {
					t.Errorf("%s:%d: %q: %s", name, i+1, strings.TrimSpace(found), f.reason)
				}
			}
		}
	})
}

func TestForbiddenTextIsFound(t *testing.T) {
	for line, want := range map[string]bool{
		"https://registry." + "npmjs.org/x":    true,
		"see https://repo." + "maven.apache.o": true,
		"cd /work" + "/main":                   true,
		"the network/work/balance":             false,
	} {
		found := false
		for _, f := range forbiddenText {
			found = found || f.pattern.MatchString(line)
		}
		if found != want {
			t.Errorf("%q: found = %v, want %v", line, found, want)
		}
	}
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^()\s]+)(?:\s+"[^"]*")?\)`)
	codeBlock    = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	codeSpan     = regexp.MustCompile("`[^`\n]*`")
)

// links returns the targets in a Markdown text that name something in the
// repository, with code left out.
func links(markdown string) []string {
	markdown = codeBlock.ReplaceAllString(markdown, "")
	// Only what a link points at matters: `[`code`](file)` stays a link.
	markdown = codeSpan.ReplaceAllString(markdown, "code")
	var targets []string
	for _, m := range markdownLink.FindAllStringSubmatch(markdown, -1) {
		target, _, _ := strings.Cut(m[1], "#")
		if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		targets = append(targets, target)
	}
	return targets
}

func TestMarkdownLinks(t *testing.T) {
	walk(t, func(name string) {
		if path.Ext(name) != ".md" {
			return
		}
		body, err := os.ReadFile(name)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		for _, target := range links(string(body)) {
			file := path.Join(path.Dir(name), target)
			if strings.HasPrefix(target, "/") {
				file = strings.TrimPrefix(target, "/")
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, and %s is not there", name, target, file)
			}
		}
	})
}

func TestLinksAreFound(t *testing.T) {
	text := "[a](b.md) [x](https://example.com) [`c`](d/e.go#L3 \"title\") [f](#part) `[g](h)`\n```\n[i](j)\n```\n![k](l.png)"
	got := fmt.Sprint(links(text))
	if want := "[b.md d/e.go l.png]"; got != want {
		t.Errorf("links = %s, want %s", got, want)
	}
}
