package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// allKinds is what get takes for every kind at once.
const allKinds = "all"

// columns are what a table shows of a kind beside the name: fields, or what
// derived computes.
var columns = map[*manifest.Kind][]string{
	manifest.Environment:  {"display_name", "free_of_charge"},
	manifest.LegalEntity:  {"legal_name", "tax_id", "email", "invoice_prefix"},
	manifest.Meter:        {"unit", "aggregation", "field", "filter"},
	manifest.Api:          {"display_name", "hosts", "base_paths"},
	manifest.Operation:    {"method", "path_template", "display_name"},
	manifest.Account:      {"display_name", "state", "email", "currency", "time_zone"},
	manifest.App:          {"display_name", "disabled"},
	manifest.Credential:   {"type", "identity", "state", "expire_time"},
	manifest.Product:      {"display_name", "visibility", "auto_approve", "operations"},
	manifest.Plan:         {"display_name", "description"},
	manifest.PlanVersion:  {"state", "start_time", "account", "currency", "recurring_fee", "charges", "quotas"},
	manifest.Subscription: {"app", "plan", "state", "start_time", "end_time"},
	manifest.Token:        {"role", "account", "scopes", "expire_time", "last_used_time"},
}

// derived are columns of credentials that are no fields.
var derived = map[string]func(*catalogv1.Credential, time.Time) string{
	"type": func(c *catalogv1.Credential, _ time.Time) string {
		m := c.ProtoReflect()
		if set := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")); set != nil {
			return string(set.Name())
		}
		return ""
	},
	"identity": func(c *catalogv1.Credential, _ time.Time) string {
		switch k := c.GetKind().(type) {
		case *catalogv1.Credential_ApiKey:
			return k.ApiKey.GetPrefix() + "…"
		case *catalogv1.Credential_OauthClient:
			return k.OauthClient.GetIssuer() + " " + k.OauthClient.GetClientId()
		case *catalogv1.Credential_JwtSubject:
			return k.JwtSubject.GetIssuer() + " " + k.JwtSubject.GetSubject()
		case *catalogv1.Credential_ClientCertificate:
			return k.ClientCertificate.GetUriSan()
		}
		return ""
	},
	"state": func(c *catalogv1.Credential, now time.Time) string {
		switch {
		case past(c.GetRevokeTime(), now):
			return "revoked"
		case past(c.GetExpireTime(), now):
			return "expired"
		}
		return "active"
	},
}

func past(t *timestamppb.Timestamp, now time.Time) bool { return t != nil && !t.AsTime().After(now) }

// outputs of resources.
var outputs = []string{"table", "json", "yaml", "csv", "name"}

func newGetCommand(client *catalogClient) *cobra.Command {
	var where scope
	var filter, sortBy string
	output := "table"
	cmd := &cobra.Command{
		Use:   "get KIND [NAME…]",
		Short: "List resources of the catalog",
		Long: `Lists resources, by name. KIND is ` + strings.Join(kindWords(), ", ") + `,
their plurals and short forms, or all. A name is whole, accounts/acme/apps/web, or
its ids, acme/web.

-o yaml leaves out what belongs to one installation, so that it can be applied,
here or elsewhere (see ` + "`tollway apply --help`" + `); -o json has everything. -o name prints names alone, -o csv what the table shows.`,
		Example: `  tollway get accounts
  tollway get app acme/web -o yaml
  tollway get credentials --account acme
  tollway get subscriptions --filter 'state = REQUESTED' --sort start_time
  tollway get all -o yaml > catalog.yaml`,
		Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			resources, err := client.selected(cmd.Context(), cmd.ErrOrStderr(), args, &where, filter, sortBy)
			if err != nil {
				return err
			}
			one := len(args) == 2 || len(args) == 1 && strings.Contains(args[0], "/")
			return printResources(cmd.OutOrStdout(), cmd.ErrOrStderr(), resources, output, one)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			offers, directive := client.completeTarget(cmd, args, typed)
			if len(args) == 0 && strings.HasPrefix(allKinds, typed) {
				offers = append(offers, allKinds)
			}
			return offers, directive
		},
	}
	where.add(cmd, client)
	cmd.Flags().StringVar(&filter, "filter", "", `which ones, such as 'display_name = "Acme*" AND labels.tier = gold'`)
	cmd.Flags().StringVar(&sortBy, "sort", "", "a field, with ' desc' after it for falling order (default the name); in a large catalog, create_time and update_time are fastest")
	addOutputs(cmd, &output, outputs)
	return cmd
}

// addOutputs adds -o with a choice; the first is the default.
func addOutputs(cmd *cobra.Command, output *string, choice []string) {
	*output = choice[0]
	cmd.Flags().StringVarP(output, "output", "o", choice[0], strings.Join(choice, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", complete(choice)) // the flag was added above
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(choice, *output) {
			return usageError("--output %q is not one of %s", *output, strings.Join(choice, ", "))
		}
		return nil
	}
}

// selected reads what get was asked for.
func (c *catalogClient) selected(ctx context.Context, notes io.Writer, args []string, where *scope, filter, sortBy string) ([]*catalogv1.Resource, error) {
	if args[0] == allKinds {
		if len(args) > 1 {
			return nil, usageError("all takes no names")
		}
		return c.everything(ctx, notes, where, filter, sortBy)
	}
	kind, names, err := target(args, where)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		if !where.covers(kind) {
			return nil, usageError("%s does not belong to what the flags name", article(kind))
		}
		return c.find(ctx, kind, where, filter, sortBy)
	}
	if filter != "" || sortBy != "" {
		return nil, usageError("--filter and --sort are for lists, not for names")
	}
	var resources []*catalogv1.Resource
	for _, name := range names {
		r, err := c.get(ctx, kind, name)
		if err != nil {
			return nil, err
		}
		resources = append(resources, r)
	}
	return resources, nil
}

// everything reads every kind that the caller may see.
func (c *catalogClient) everything(ctx context.Context, notes io.Writer, where *scope, filter, sortBy string) ([]*catalogv1.Resource, error) {
	var all []*catalogv1.Resource
	for _, kind := range manifest.Kinds() {
		if !where.covers(kind) {
			continue
		}
		some, err := c.find(ctx, kind, where, filter, sortBy)
		if statusOf(err) == http.StatusForbidden {
			fmt.Fprintf(notes, "%s: %s\n", kind.Plural, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func printResources(out, notes io.Writer, resources []*catalogv1.Resource, output string, one bool) error {
	switch output {
	case "json":
		return printResourcesJSON(out, resources, one)
	case "yaml":
		return manifest.Write(out, resources)
	case "name":
		return printNames(out, resources)
	case "csv":
		return printResourcesCSV(out, resources, time.Now())
	}
	if len(resources) == 0 {
		fmt.Fprintln(notes, "no resources")
		return nil
	}
	return printTables(out, resources, time.Now())
}

func printNames(out io.Writer, resources []*catalogv1.Resource) error {
	var b strings.Builder
	for _, r := range resources {
		b.WriteString(manifest.Name(r) + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printResourcesJSON prints one resource, or a list, each with its kind first,
// as apply reads them.
func printResourcesJSON(out io.Writer, resources []*catalogv1.Resource, one bool) error {
	list := make([]json.RawMessage, len(resources))
	for i, r := range resources {
		kind, m := manifest.Open(r)
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return fmt.Errorf("write %s: %w", manifest.Name(r), err)
		}
		first := fmt.Sprintf(`{"kind":%q`, kind.Name)
		if rest := bytes.TrimSpace(text[1:]); rest[0] != '}' {
			first += ","
		}
		list[i] = append([]byte(first), text[1:]...)
	}
	if one && len(list) == 1 {
		return printJSON(out, list[0])
	}
	return printJSON(out, list)
}

// runs divides resources where the kind changes.
func runs(resources []*catalogv1.Resource) [][]*catalogv1.Resource {
	var out [][]*catalogv1.Resource
	var last *manifest.Kind
	for _, r := range resources {
		kind, _ := manifest.Open(r)
		if kind != last {
			out = append(out, nil)
			last = kind
		}
		out[len(out)-1] = append(out[len(out)-1], r)
	}
	return out
}

func printTables(out io.Writer, resources []*catalogv1.Resource, now time.Time) error {
	for i, run := range runs(resources) {
		if i > 0 {
			if _, err := fmt.Fprintln(out); err != nil {
				return err
			}
		}
		if err := printTable(out, run, now, ""); err != nil {
			return err
		}
	}
	return nil
}

// printTable prints resources of one kind.
func printTable(out io.Writer, resources []*catalogv1.Resource, now time.Time, indent string) error {
	kind, _ := manifest.Open(resources[0])
	header := append([]string{"name"}, columns[kind]...)
	table := textTable{right: make([]bool, len(header))}
	header[0] = indent + header[0]
	table.add(header)
	for _, r := range resources {
		cells := []string{indent + printable(manifest.Name(r))}
		for _, c := range columns[kind] {
			text := printable(column(r, c, now))
			if text == "" {
				text = "-"
			}
			cells = append(cells, text)
		}
		table.add(cells)
	}
	return table.print(out)
}

func printResourcesCSV(out io.Writer, resources []*catalogv1.Resource, now time.Time) error {
	w := csv.NewWriter(out)
	for _, run := range runs(resources) {
		kind, _ := manifest.Open(run[0])
		records := [][]string{append([]string{"name"}, columns[kind]...)}
		for _, r := range run {
			record := []string{manifest.Name(r)}
			for _, c := range columns[kind] {
				record = append(record, column(r, c, now))
			}
			records = append(records, record)
		}
		if err := w.WriteAll(records); err != nil {
			return err
		}
	}
	return nil
}

// column is what a table shows of a resource under a header.
func column(r *catalogv1.Resource, name string, now time.Time) string {
	if c := r.GetCredential(); c != nil && derived[name] != nil {
		return derived[name](c, now)
	}
	_, message := manifest.Open(r)
	m := message.ProtoReflect()
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	v := m.Get(f)
	if f.IsList() {
		return listColumn(f, v.List())
	}
	switch f.Kind() {
	case protoreflect.MessageKind:
		if t, ok := v.Message().Interface().(*timestamppb.Timestamp); ok && m.Has(f) {
			return t.AsTime().Format(time.RFC3339)
		}
		return ""
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil && m.Has(f) {
			return string(d.Name())
		}
		return ""
	}
	return v.String()
}

// listColumn shows texts, and of anything else how many there are.
func listColumn(f protoreflect.FieldDescriptor, list protoreflect.List) string {
	if f.Kind() != protoreflect.StringKind {
		return strconv.Itoa(list.Len())
	}
	var texts []string
	for i := range list.Len() {
		texts = append(texts, list.Get(i).String())
	}
	return strings.Join(texts, " ")
}

// referrers are the kinds whose fields may name a resource of a kind.
var referrers = map[*manifest.Kind][]*manifest.Kind{
	manifest.Environment: {manifest.Product}, manifest.LegalEntity: {manifest.Account}, manifest.Meter: {manifest.PlanVersion},
	manifest.Api: {manifest.Product, manifest.PlanVersion}, manifest.Operation: {manifest.Product, manifest.PlanVersion},
	manifest.Account: {manifest.Product, manifest.PlanVersion, manifest.Token}, manifest.App: {manifest.Subscription},
	manifest.Product: {manifest.Subscription}, manifest.Plan: {manifest.Subscription}, manifest.PlanVersion: {manifest.Subscription},
}

func newDescribeCommand(client *catalogClient) *cobra.Command {
	var where scope
	cmd := &cobra.Command{
		Use:   "describe KIND NAME | NAME",
		Short: "Show a resource with all that belongs to it and refers to it",
		Example: `  tollway describe account acme
  tollway describe products/payments
  tollway describe meter calls`,
		Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, names, err := target(args, &where)
			if err != nil {
				return err
			}
			if len(names) != 1 {
				return usageError("describe takes one name")
			}
			return client.describe(cmd.Context(), cmd.OutOrStdout(), kind, names[0])
		},
		ValidArgsFunction: client.completeTarget,
	}
	where.add(cmd, client)
	return cmd
}

func (c *catalogClient) describe(ctx context.Context, out io.Writer, kind *manifest.Kind, name string) error {
	r, err := c.get(ctx, kind, name)
	if err != nil {
		return err
	}
	text, err := manifest.Text(r, true)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", kind.Name, printable(name))
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "kind: ") && !strings.HasPrefix(line, "name: ") {
			b.WriteString("  " + printable(strings.TrimSuffix(line, "\n")) + "\n")
		}
	}
	for _, child := range manifest.Kinds() {
		rest, ok := strings.CutPrefix(child.Parent(), kind.Pattern)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		resources, err := c.visible(ctx, child, name+strings.ReplaceAll(rest, "*", anyID))
		if err != nil {
			return err
		}
		if err := section(&b, title(child), resources); err != nil {
			return err
		}
	}
	for _, from := range referrers[kind] {
		resources, err := c.visible(ctx, from, strings.ReplaceAll(from.Parent(), "*", anyID))
		if err != nil {
			return err
		}
		resources = slices.DeleteFunc(resources, func(r *catalogv1.Resource) bool { return !refersTo(r, name) })
		if err := section(&b, title(from)+" that refer to it", resources); err != nil {
			return err
		}
	}
	_, err = io.WriteString(out, b.String())
	return err
}

// visible lists a kind, or nothing where the caller may not.
func (c *catalogClient) visible(ctx context.Context, kind *manifest.Kind, parent string) ([]*catalogv1.Resource, error) {
	resources, err := c.list(ctx, kind, parent, "", "")
	if statusOf(err) == http.StatusForbidden {
		return nil, nil
	}
	return resources, err
}

func title(kind *manifest.Kind) string {
	return strings.ToUpper(kind.Plural[:1]) + strings.ReplaceAll(kind.Plural[1:], "_", " ")
}

func section(b *strings.Builder, title string, resources []*catalogv1.Resource) error {
	if len(resources) == 0 {
		return nil
	}
	fmt.Fprintf(b, "\n%s\n", title)
	return printTable(b, resources, time.Now(), "  ")
}

// refersTo tells whether a text within a resource is a name, or the name of
// something below it.
func refersTo(r *catalogv1.Resource, name string) bool {
	_, m := manifest.Open(r)
	return mentions(m.ProtoReflect(), name)
}

func mentions(m protoreflect.Message, name string) bool {
	found := false
	one := func(f protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch f.Kind() {
		case protoreflect.StringKind:
			found = found || v.String() == name || strings.HasPrefix(v.String(), name+"/")
		case protoreflect.MessageKind:
			found = found || mentions(v.Message(), name)
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() || f.Name() == "name":
		case f.IsList():
			for i := range v.List().Len() {
				one(f, v.List().Get(i))
			}
		default:
			one(f, v)
		}
		return !found
	})
	return found
}

func newDeleteCommand(client *catalogClient) *cobra.Command {
	var where scope
	var files []string
	dryRun := false
	cmd := &cobra.Command{
		Use:   "delete KIND NAME… | NAME… | -f FILE",
		Short: "Delete resources",
		Long: `Deletes resources, without asking. What is in use is not deleted, and the error
says by what. With -f, the resources of the files are deleted, what refers to
others first. Goes on after an error, and then exits with 1.`,
		Example: `  tollway delete app acme/web
  tollway delete accounts/acme/subscriptions/payments
  tollway delete -f catalog/`,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := deleted(args, files, cmd.InOrStdin(), &where)
			if err != nil {
				return err
			}
			done := "deleted"
			if dryRun {
				done = "would be deleted"
			}
			return client.deleteAll(cmd.Context(), cmd.OutOrStdout(), names, done, dryRun)
		},
		ValidArgsFunction: client.completeTarget,
	}
	where.add(cmd, client)
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file or folder with the resources to delete; - for standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check whether they could be deleted, and delete nothing")
	return cmd
}

// deleted names what a delete command is about, in the order in which it can be
// deleted.
func deleted(args, files []string, in io.Reader, where *scope) ([]string, error) {
	if (len(args) == 0) == (len(files) == 0) {
		return nil, usageError("name the resources, or the files that have them with -f")
	}
	if len(args) > 0 {
		_, names, err := target(args, where)
		if err == nil && len(names) == 0 {
			err = usageError("name the resources to delete")
		}
		return names, err
	}
	texts, err := readFiles(files, in)
	if err != nil {
		return nil, err
	}
	documents, err := parseFiles(texts)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, kind := range slices.Backward(manifest.Kinds()) {
		for _, d := range documents {
			if name := manifest.Name(d.Resource); kind.Matches(name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

func (c *catalogClient) deleteAll(ctx context.Context, out io.Writer, names []string, done string, dryRun bool) error {
	var errs []error
	for _, name := range names {
		if err := c.delete(ctx, name, dryRun); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			if statusOf(err) == 0 {
				break // nobody answers
			}
			continue
		}
		if _, err := fmt.Fprintf(out, "%s %s\n", name, done); err != nil {
			return err
		}
	}
	if len(errs) > 0 {
		return &exitError{exitFailed, errors.Join(errs...)}
	}
	return nil
}
