package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// maxManifest is the most that is read of one file.
const maxManifest = 32 << 20

// applyFlags say what the catalog should be.
type applyFlags struct {
	client *catalogClient
	files  []string
	set    string
	prune  bool
	dryRun bool
	api    string
	output string
}

func (f *applyFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.files, "filename", "f", nil, "file or folder with resources in YAML or JSON; - for standard input; may be repeated")
	flags.StringVar(&f.set, "set", "", `the set that the resources belong to (default "default")`)
	flags.BoolVar(&f.prune, "prune", false, "delete what was applied before in the same set and is not in the files")
	_ = cmd.MarkFlagRequired("filename")                        // the flag was added above
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json") // the flag was added above
}

func newApplyCommand(client *catalogClient) *cobra.Command {
	f := &applyFlags{client: client}
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the catalog as files say",
		Long: `Makes the catalog as the files say: accounts, APIs, products, plans and the rest.
Each document of a file is a resource, or a list of resources, with kind, name
and its fields; ` + "`tollway get … -o yaml`" + ` writes such files. A folder stands for the
files in it that end in .yaml, .yml or .json. All files are one change: where one
document is wrong, nothing is applied, and the error names its file and line.

New API keys and tokens are printed once, here, and kept nowhere.

What ` + "`tollway get all -o yaml`" + ` writes makes an equal catalog elsewhere: a subscription
that is new there keeps its state, its reason and the versions it was under
(phases), and a credential stays revoked. Where they exist already, these fields
are ignored. API keys and tokens are made anew, and audit entries are not copied.

With --api the one file is an OpenAPI document, and the API's operations are made
from it.

One change has at most 5000 resources and, as JSON, 16 MiB.

Exits with 1 when the server refused, and with 2 when a file is wrong.`,
		Example: `  tollway apply -f catalog/
  tollway apply -f accounts.yaml -f plans.yaml --dry-run
  tollway get account acme -o yaml | sed s/EUR/USD/ | tollway apply -f -
  tollway apply -f openapi.yaml --api payments`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			response, err := f.run(cmd.Context(), cmd.InOrStdin())
			if err != nil {
				return err
			}
			if f.output == "json" {
				return printMessage(cmd.OutOrStdout(), response)
			}
			return printChanges(cmd.OutOrStdout(), response.GetChanges(), f.dryRun)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "check everything, say what would change, and change nothing")
	cmd.Flags().StringVar(&f.api, "api", "", "the file is an OpenAPI document with the operations of this API")
	cmd.MarkFlagsMutuallyExclusive("api", "set")
	_ = cmd.RegisterFlagCompletionFunc("api", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return client.completeNames(cmd, manifest.Api, typed)
	}) // the flag was added above
	addOutput(cmd, &f.output, "text")
	return cmd
}

func newDiffCommand(client *catalogClient) *cobra.Command {
	f := &applyFlags{client: client, dryRun: true}
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what apply would change, line by line",
		Long: `Shows what ` + "`tollway apply`" + ` would change, as a unified diff of each resource.
Exits with 0 when nothing would change, with 1 when something would, and with 2
when that cannot be told.`,
		Example: `  tollway diff -f catalog/
  tollway diff -f catalog/ --prune || echo "the catalog is not as the files say"`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			response, err := f.run(cmd.Context(), cmd.InOrStdin())
			if err != nil {
				return &exitError{exitTrouble, err}
			}
			changed, err := printDiff(cmd.OutOrStdout(), response.GetChanges())
			if err != nil {
				return &exitError{exitTrouble, err}
			}
			if changed {
				return &exitError{exitDiffers, errSilent}
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

// The exit codes of diff, as diff has them.
const (
	exitDiffers = 1
	exitTrouble = 2
)

func (f *applyFlags) run(ctx context.Context, in io.Reader) (*catalogv1.ApplyResponse, error) {
	files, err := readFiles(f.files, in)
	if err != nil {
		return nil, err
	}
	if f.api != "" {
		return f.importOpenAPI(ctx, files)
	}
	documents, err := parseFiles(files)
	if err != nil {
		return nil, err
	}
	return f.client.apply(ctx, documents, &catalogv1.ApplyRequest{ValidateOnly: f.dryRun, Prune: f.prune, Set: f.set})
}

func (f *applyFlags) importOpenAPI(ctx context.Context, files []textFile) (*catalogv1.ApplyResponse, error) {
	name, err := fullName(manifest.Api, f.api, nil)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, usageError("--api takes one OpenAPI document, not %d files", len(files))
	}
	response := &catalogv1.ApplyResponse{}
	err = f.client.do(ctx, http.MethodPost, "/v1/"+name+":importOpenApi", nil,
		&catalogv1.ImportOpenApiRequest{Document: files[0].text, Prune: f.prune, ValidateOnly: f.dryRun}, response)
	return response, located(err, func(v violation) string { return files[0].name + ": " + v.Field + ": " + v.Description })
}

// apply sends the resources of documents.
func (c *catalogClient) apply(ctx context.Context, documents []manifest.Document, request *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	for _, d := range documents {
		request.Resources = append(request.Resources, d.Resource)
	}
	response := &catalogv1.ApplyResponse{}
	err := c.do(ctx, http.MethodPost, "/v1/catalog:apply", nil, request, response)
	if statusOf(err) == http.StatusRequestEntityTooLarge {
		return nil, fmt.Errorf("%w; apply the files in several parts, each with a --set of its own", err)
	}
	return response, located(err, func(v violation) string {
		at, field, ok := manifest.Locate(documents, v.Field)
		text := v.Description
		if field != "" {
			text = field + ": " + text
		}
		if ok {
			text = at.String() + ": " + text
		}
		return text
	})
}

// located says of each field that the server does not like where it is in the
// files.
func located(err error, place func(violation) string) error {
	var r *refusal
	if !errors.As(err, &r) || len(r.violations) == 0 {
		return err
	}
	lines := make([]string, len(r.violations))
	for i, v := range r.violations {
		lines[i] = place(v)
	}
	return &exitError{exitCode(err), errors.New(strings.Join(lines, "\n"))}
}

// textFile is a file that was read.
type textFile struct {
	name string
	text []byte
}

// readFiles reads files, the files of folders, and standard input, in the order
// of the arguments and then of names.
func readFiles(paths []string, in io.Reader) ([]textFile, error) {
	var files []textFile
	for _, path := range paths {
		if path == "-" {
			text, err := readAll(in)
			if err != nil {
				return nil, usageError("read standard input: %w", err)
			}
			files = append(files, textFile{"standard input", text})
			continue
		}
		found, err := filesOf(path)
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			text, err := readFile(name)
			if err != nil {
				return nil, usageError("read %s: %w", name, err)
			}
			files = append(files, textFile{name, text})
		}
	}
	return files, nil
}

// filesOf lists a file itself, or the files with resources in a folder.
func filesOf(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		if info, statErr := os.Stat(path); statErr == nil && !info.IsDir() {
			return []string{path}, nil
		}
		return nil, usageError("read the files: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		return e.IsDir() || strings.HasPrefix(e.Name(), ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name()))
	})
	if len(entries) == 0 {
		return nil, usageError("there is no .yaml, .yml or .json file in %s", path)
	}
	var names []string
	for _, e := range entries {
		names = append(names, filepath.Join(path, e.Name()))
	}
	return names, nil
}

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readAll(file)
}

func readAll(in io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxManifest+1))
	if err == nil && len(text) > maxManifest {
		err = fmt.Errorf("is larger than %d MB", maxManifest>>20)
	}
	return text, err
}

// parseFiles reads the documents of all files, and says all that is wrong with
// any of them.
func parseFiles(files []textFile) ([]manifest.Document, error) {
	var documents []manifest.Document
	var problems manifest.Problems
	for _, file := range files {
		some, err := manifest.Parse(file.name, file.text)
		documents = append(documents, some...)
		problems = addProblems(problems, err)
	}
	problems = addProblems(problems, manifest.Unique(documents))
	switch {
	case len(problems) > 0:
		return nil, &exitError{exitUsage, problems}
	case len(documents) == 0:
		return nil, usageError("there are no resources in the files")
	}
	return documents, nil
}

func addProblems(problems manifest.Problems, err error) manifest.Problems {
	var more manifest.Problems
	errors.As(err, &more)
	return append(problems, more...)
}

// verbs are what happened to resources, in the order in which they are counted.
var verbs = []struct {
	action catalogv1.ChangeAction
	word   string
}{
	{catalogv1.ChangeAction_CREATED, "created"}, {catalogv1.ChangeAction_UPDATED, "updated"},
	{catalogv1.ChangeAction_DELETED, "deleted"}, {catalogv1.ChangeAction_UNCHANGED, "unchanged"},
}

// printChanges prints a line for each resource, how many there were of each
// kind, and the secrets that were made.
func printChanges(out io.Writer, changes []*catalogv1.Change, dryRun bool) error {
	suffix := ""
	if dryRun {
		suffix = " (dry run)"
	}
	var b strings.Builder
	var totals []string
	for _, v := range verbs {
		n := 0
		for _, c := range changes {
			if c.GetAction() == v.action {
				n++
			}
		}
		if n > 0 {
			totals = append(totals, fmt.Sprintf("%d %s", n, v.word))
		}
	}
	for _, c := range changes {
		fmt.Fprintf(&b, "%s %s%s%s\n", printable(c.GetName()), actionWord(c.GetAction()), fieldList(c), suffix)
	}
	if len(totals) == 0 {
		totals = []string{"nothing to change"}
	}
	fmt.Fprintf(&b, "%s%s\n", strings.Join(totals, ", "), suffix)
	var made []*catalogv1.Resource
	for _, c := range changes {
		made = append(made, c.GetAfter())
	}
	writeSecrets(&b, made)
	_, err := io.WriteString(out, b.String())
	return err
}

func actionWord(action catalogv1.ChangeAction) string {
	for _, v := range verbs {
		if v.action == action {
			return v.word
		}
	}
	return strings.ToLower(action.String())
}

func fieldList(c *catalogv1.Change) string {
	if c.GetAction() != catalogv1.ChangeAction_UPDATED || len(c.GetFields()) == 0 {
		return ""
	}
	return " (" + strings.Join(c.GetFields(), ", ") + ")"
}

// writeSecrets prints keys and tokens that are shown this once.
func writeSecrets(b *strings.Builder, resources []*catalogv1.Resource) {
	table := textTable{right: make([]bool, 2)}
	for _, r := range resources {
		if secret := secretOf(r); secret != "" {
			table.add([]string{"  " + manifest.Name(r), secret})
		}
	}
	if len(table.rows) > 0 {
		b.WriteString("\nKeep these now: they are not shown again.\n")
		_ = table.print(b) // to memory
	}
}

func secretOf(r *catalogv1.Resource) string {
	return r.GetCredential().GetApiKey().GetKey() + r.GetToken().GetToken()
}

// printMessage prints a message as JSON with the names of the schema.
func printMessage(out io.Writer, m proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return printJSON(out, json.RawMessage(text))
}

// printDiff prints what changes of each resource, and tells whether anything
// does.
func printDiff(out io.Writer, changes []*catalogv1.Change) (bool, error) {
	changed := false
	for _, c := range changes {
		if c.GetAction() == catalogv1.ChangeAction_UNCHANGED {
			continue
		}
		changed = true
		before, err := manifest.Text(c.GetBefore(), false)
		if err != nil {
			return changed, err
		}
		after, err := manifest.Text(c.GetAfter(), false)
		if err != nil {
			return changed, err
		}
		if _, err := io.WriteString(out, unifiedDiff(c.GetName(), before, after)); err != nil {
			return changed, err
		}
	}
	return changed, nil
}
