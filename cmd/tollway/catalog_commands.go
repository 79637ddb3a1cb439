package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// newCatalogCommands are all commands that ask or change the catalog.
func newCatalogCommands() []*cobra.Command {
	client := &catalogClient{}
	commands := []*cobra.Command{
		newApplyCommand(client), newDiffCommand(client), newGetCommand(client), newDescribeCommand(client), newDeleteCommand(client),
		newRegisterCommand(client), newWhoAmICommand(client), newAuditCommand(client),
	}
	for _, g := range []struct{ name, short string }{
		{"app", "Make apps, the programs that call APIs"},
		{"credential", "Make, rotate and revoke what apps identify themselves with"},
		{"subscription", "Ask for products, and decide about it"},
		{"plan", "Publish and archive versions of plans"},
		{"token", "Make, list and revoke tokens for this server"},
	} {
		group := &cobra.Command{Use: g.name, Short: g.short}
		for _, c := range creations {
			if c.group == g.name {
				group.AddCommand(c.command(client))
			}
		}
		for _, a := range actions {
			if a.group == g.name {
				group.AddCommand(a.command(client))
			}
		}
		if g.name == "token" {
			group.AddCommand(newTokenListCommand(client), newTokenRevokeCommand(client))
		}
		commands = append(commands, group)
	}
	for _, cmd := range commands {
		client.add(cmd)
	}
	return commands
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError("%w; see `%s --help`", err, cmd.CommandPath())
		}
		return nil
	}
}

// A fieldFlag fills a field of a message, as the field's type says. A moment
// whose flag ends in "-in" is so long from now; a flag that is named like a kind
// takes the name of one.
type fieldFlag struct{ name, field, usage string }

var reasonFlag = fieldFlag{"reason", "reason", "why, for the consumer to read"}

// addFieldFlags adds flags for the fields of a message to a command, and returns
// what fills a message from those that were given.
func addFieldFlags(client *catalogClient, cmd *cobra.Command, sample proto.Message, fields []fieldFlag) func(m protoreflect.Message, now time.Time) error {
	flags := cmd.Flags()
	for _, f := range fields {
		if fieldNamed(sample.ProtoReflect(), f.field).IsList() {
			flags.StringArray(f.name, nil, f.usage)
			continue
		}
		flags.String(f.name, "", f.usage)
		if kind, ok := manifest.KindNamed(f.name); ok {
			_ = cmd.RegisterFlagCompletionFunc(f.name, func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
				return client.completeNames(cmd, kind, typed)
			}) // the flag was added above
		}
	}
	return func(m protoreflect.Message, now time.Time) error {
		for _, f := range fields {
			flag := flags.Lookup(f.name)
			if !flag.Changed {
				continue
			}
			d := fieldNamed(m, f.field)
			if d.IsList() {
				texts, err := flags.GetStringArray(f.name)
				if err != nil {
					return err
				}
				for _, text := range texts {
					m.Mutable(d).List().Append(protoreflect.ValueOfString(text))
				}
				continue
			}
			v, err := fieldValue(d, f.name, flag.Value.String(), now)
			if err != nil {
				return usageError("--%s %w", f.name, err)
			}
			m.Set(d, v)
		}
		return nil
	}
}

func fieldNamed(m protoreflect.Message, name string) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(protoreflect.Name(name))
}

func fieldValue(d protoreflect.FieldDescriptor, flag, text string, now time.Time) (protoreflect.Value, error) {
	if d.Message() == nil {
		if kind, ok := manifest.KindNamed(flag); ok {
			name, err := fullName(kind, text, nil)
			return protoreflect.ValueOfString(name), err
		}
		return protoreflect.ValueOfString(text), nil
	}
	span := func() (time.Duration, error) { return parseSince(text) }
	switch {
	case d.Message().Name() == "Duration":
		length, err := span()
		return protoreflect.ValueOfMessage(durationpb.New(length).ProtoReflect()), err
	case strings.HasSuffix(flag, "-in"):
		length, err := span()
		return protoreflect.ValueOfMessage(timestamppb.New(now.Add(length)).ProtoReflect()), err
	}
	at, err := parseMoment(text, time.UTC)
	return protoreflect.ValueOfMessage(timestamppb.New(at).ProtoReflect()), err
}

// An action is a subcommand that asks the server to do something to one
// resource.
type action struct {
	group, name string
	kind        *manifest.Kind
	short       string
	example     string // the arguments of an example
	done        string // what is printed after the resource's name
	verb        string // of the method's address, after the name
	request     proto.Message
	extra       string // a field for a second argument, which is a plan
	set         string // a field that is always true
	flags       []fieldFlag
}

var actions = []action{
	{"credential", "rotate", manifest.Credential, "Make the next API key, and let the old one expire", "acme/web/main --overlap 7d", "created", "rotate",
		&catalogv1.RotateCredentialRequest{}, "", "", []fieldFlag{
			{"id", "credential_id", "the last part of the new one's name (default: one is chosen)"},
			{"overlap", "overlap", "how long the old key is still accepted (default 1d)"}}},
	{"credential", "revoke", manifest.Credential, "End a credential now, for ever", "acme/web/main", "revoked", "revoke",
		&catalogv1.RevokeCredentialRequest{}, "", "", nil},
	{"subscription", "approve", manifest.Subscription, "Let a requested subscription start", "acme/payments", "approved", "approve",
		&catalogv1.ApproveSubscriptionRequest{}, "", "", []fieldFlag{reasonFlag}},
	{"subscription", "reject", manifest.Subscription, "Say no to a requested subscription", "acme/payments --reason 'no contract yet'", "rejected", "approve",
		&catalogv1.ApproveSubscriptionRequest{}, "", "reject", []fieldFlag{reasonFlag}},
	{"subscription", "suspend", manifest.Subscription, "Stop the use of a subscription", "acme/payments --reason unpaid", "suspended", "suspend",
		&catalogv1.SuspendSubscriptionRequest{}, "", "", []fieldFlag{reasonFlag}},
	{"subscription", "resume", manifest.Subscription, "Bring a suspended subscription back", "acme/payments", "resumed", "resume",
		&catalogv1.ResumeSubscriptionRequest{}, "", "", nil},
	{"subscription", "end", manifest.Subscription, "End a subscription", "acme/payments --at 2027-01-01", "ended", "end",
		&catalogv1.EndSubscriptionRequest{}, "", "", []fieldFlag{{"at", "end_time", "when (default now)"}, reasonFlag}},
	{"subscription", "move", manifest.Subscription, "Put a subscription under another plan of its product, or another version", "acme/payments payments/enterprise --at 2027-01-01", "moved", "move",
		&catalogv1.MoveSubscriptionRequest{}, "plan", "", []fieldFlag{{"at", "start_time", "from when on (default now)"}}},
	{"plan", "publish", manifest.PlanVersion, "Freeze a draft; it holds from its start time on", "payments/basic/2", "published", "publish",
		&catalogv1.PublishPlanVersionRequest{}, "", "", nil},
	{"plan", "archive", manifest.PlanVersion, "Keep new subscriptions from a published version", "payments/basic/1", "archived", "archive",
		&catalogv1.ArchivePlanVersionRequest{}, "", "", nil},
}

func (a action) command(client *catalogClient) *cobra.Command {
	kind := a.kind
	use, args := a.name+" "+strings.ToUpper(kindWord(kind)), 1
	if a.extra != "" {
		use, args = use+" "+strings.ToUpper(a.extra), 2
	}
	var output string
	cmd := &cobra.Command{
		Use: use, Short: a.short, Example: "  tollway " + a.group + " " + a.name + " " + a.example,
		Args: usageArgs(cobra.ExactArgs(args)),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			switch {
			case len(args) == 0:
				return client.completeNames(cmd, kind, typed)
			case len(args) == 1 && a.extra != "":
				return client.completeNames(cmd, manifest.Plan, typed)
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	fill := addFieldFlags(client, cmd, a.request, a.flags)
	addOutput(cmd, &output, "text")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := fullName(kind, args[0], nil)
		if err != nil {
			return err
		}
		request := a.request.ProtoReflect().New()
		if err := fill(request, time.Now()); err != nil {
			return err
		}
		if a.extra != "" {
			plan, err := planOrVersion(args[1])
			if err != nil {
				return err
			}
			request.Set(fieldNamed(request, a.extra), protoreflect.ValueOfString(plan))
		}
		if a.set != "" {
			request.Set(fieldNamed(request, a.set), protoreflect.ValueOfBool(true))
		}
		r, into := kind.New()
		if err := client.do(cmd.Context(), http.MethodPost, "/v1/"+name+":"+a.verb, nil, request.Interface(), into); err != nil {
			return err
		}
		return printDone(cmd, r, a.done, output)
	}
	return cmd
}

// planOrVersion reads payments/basic or payments/basic/2, or either name in
// full.
func planOrVersion(text string) (string, error) {
	version := manifest.PlanVersion
	if len(idsOf(version, text)) == version.Depth() {
		return fullName(version, text, nil)
	}
	return fullName(manifest.Plan, text, nil)
}

// printDone prints what became of a resource, and the secret that was made.
func printDone(cmd *cobra.Command, r *catalogv1.Resource, done, output string) error {
	if output == "json" {
		return printResourcesJSON(cmd.OutOrStdout(), []*catalogv1.Resource{r}, true)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", printable(manifest.Name(r)), done)
	writeSecrets(&b, []*catalogv1.Resource{r})
	_, err := fmt.Fprint(cmd.OutOrStdout(), b.String())
	return err
}

// A creation is a subcommand that makes a resource.
type creation struct {
	group, use, short, long string
	example                 string // the arguments of an example
	kind                    *manifest.Kind
	args                    cobra.PositionalArgs
	completes               *manifest.Kind // what the argument names, or where it belongs
	flags                   []fieldFlag
	ownID                   bool // --id, where the argument is not the new name
	// place fills the message from the arguments and says where it belongs.
	place func(cmd *cobra.Command, client *catalogClient, args []string, m *catalogv1.Resource) (parent, id string, err error)
}

var displayNameFlag = fieldFlag{"display-name", "display_name", "what people call it"}
var expiresFlag = fieldFlag{"expires-in", "expire_time", "how long it is accepted, such as 24h or 90d (default: without end)"}

var creations = []creation{
	{"app", "create APP", "Make an app", "", "acme/web --display-name 'Web shop'", manifest.App, cobra.ExactArgs(1), manifest.Account,
		[]fieldFlag{displayNameFlag, {"description", "description", "what it does, for whoever approves its subscriptions"}}, false,
		func(_ *cobra.Command, _ *catalogClient, args []string, _ *catalogv1.Resource) (string, string, error) {
			name, err := fullName(manifest.App, args[0], nil)
			return parentOf(name), path.Base(name), err
		}},
	{"credential", "create APP", "Make an API key for an app; it is shown once",
		"Makes an API key. Clients of authorization servers, subjects of tokens and client\ncertificates are made with `tollway apply`.",
		"acme/web --expires-in 90d", manifest.Credential, cobra.ExactArgs(1), manifest.App, []fieldFlag{displayNameFlag, expiresFlag}, true,
		func(_ *cobra.Command, _ *catalogClient, args []string, r *catalogv1.Resource) (string, string, error) {
			r.GetCredential().Kind = &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}
			app, err := fullName(manifest.App, args[0], nil)
			return app, "", err
		}},
	{"subscription", "request PLAN", "Ask for a product under a plan",
		"Asks for a product under a plan, for an app or, with --account, for every app of\nan account. Whoever has only one account need not name it.",
		"payments/basic --app acme/web", manifest.Subscription, cobra.ExactArgs(1), manifest.Plan,
		[]fieldFlag{{"app", "app", "for this app"}, {"start", "start_time", "when it starts (default now)"}, {"end", "end_time", "when it ends (default: it goes on)"}}, true,
		placeSubscription},
	{"token", "create [ID]", "Make an access token; it is shown once", "",
		"nightly --role finance --scope reports.read --expires-in 90d", manifest.Token, cobra.MaximumNArgs(1), nil,
		[]fieldFlag{{"role", "role", "what it may do: admin, product_manager, finance, gateway or consumer"}, {"account", "account", "the account of a consumer's token"},
			{"scope", "scopes", "what it is limited to, such as reports.read; may be repeated"}, displayNameFlag, expiresFlag}, false,
		func(_ *cobra.Command, _ *catalogClient, args []string, _ *catalogv1.Resource) (string, string, error) {
			return "", strings.TrimPrefix(strings.Join(args, ""), "tokens/"), nil
		}},
}

// parentOf is the name of what a resource belongs to.
func parentOf(name string) string {
	parts := strings.Split(name, "/")
	return strings.Join(parts[:max(0, len(parts)-2)], "/")
}

// placeSubscription finds the account: that of --account, of the app, or the
// caller's own.
func placeSubscription(cmd *cobra.Command, client *catalogClient, args []string, r *catalogv1.Resource) (string, string, error) {
	plan, err := fullName(manifest.Plan, args[0], nil)
	if err != nil {
		return "", "", err
	}
	s := r.GetSubscription()
	s.Plan = plan
	if s.App != "" {
		return parentOf(s.App), "", nil
	}
	account, err := cmd.Flags().GetString("account")
	if err != nil {
		return "", "", err
	}
	if account == "" {
		me, err := client.whoAmI(cmd.Context())
		if err != nil {
			return "", "", err
		}
		if account = me.GetAccount(); account == "" {
			return "", "", usageError("say for whom, with --app or --account")
		}
	}
	account, err = fullName(manifest.Account, account, nil)
	return account, "", err
}

func (c creation) command(client *catalogClient) *cobra.Command {
	kind := c.kind
	verb, _, _ := strings.Cut(c.use, " ")
	var output, id string
	cmd := &cobra.Command{
		Use: c.use, Short: c.short, Long: c.long, Example: "  tollway " + c.group + " " + verb + " " + c.example,
		Args: usageArgs(c.args),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 || c.completes == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return client.completeNames(cmd, c.completes, typed)
		},
	}
	_, sample := kind.New()
	fill := addFieldFlags(client, cmd, sample, c.flags)
	if c.ownID {
		cmd.Flags().StringVar(&id, "id", "", "the last part of its name (default: one is chosen)")
	}
	if c.group == "subscription" {
		cmd.Flags().String("account", "", "for every app of this account")
		cmd.MarkFlagsMutuallyExclusive("account", "app")
	}
	addOutput(cmd, &output, "text")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, m := kind.New()
		if err := fill(m.ProtoReflect(), time.Now()); err != nil {
			return err
		}
		parent, argumentID, err := c.place(cmd, client, args, r)
		if err != nil {
			return err
		}
		made, err := client.create(cmd.Context(), kind, parent, id+argumentID, m)
		if err != nil {
			return err
		}
		done := "created"
		if s := made.GetSubscription(); s != nil {
			done = strings.ToLower(s.GetState().String()) // requested, or active at once
		}
		return printDone(cmd, made, done, output)
	}
	return cmd
}

func newTokenListCommand(client *catalogClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List access tokens", Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tokens, err := client.list(cmd.Context(), manifest.Token, "", "", "")
			if err != nil {
				return err
			}
			return printResources(cmd.OutOrStdout(), cmd.ErrOrStderr(), tokens, output, false)
		},
	}
	addOutputs(cmd, &output, outputs)
	return cmd
}

func newTokenRevokeCommand(client *catalogClient) *cobra.Command {
	kind := manifest.Token
	return &cobra.Command{
		Use: "revoke TOKEN…", Short: "End tokens now, for ever", Example: "  tollway token revoke nightly", Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, names, err := target(append([]string{kind.Plural}, args...), nil)
			if err != nil {
				return err
			}
			return client.deleteAll(cmd.Context(), cmd.OutOrStdout(), names, "revoked", false)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return client.completeNames(cmd, kind, typed)
		},
	}
}

func newRegisterCommand(client *catalogClient) *cobra.Command {
	var output string
	request := &catalogv1.RegisterRequest{}
	cmd := &cobra.Command{
		Use:   "register",
		Short: "Get an account of your own, where that is allowed",
		Long: `Makes an account for you and a token to use it, where the installation allows
that. Where somebody has to approve it, the account's state is ACCOUNT_PENDING.`,
		Example: "  tollway register --id acme --display-name 'Acme Ltd' --email api@acme.example",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			response := &catalogv1.RegisterResponse{}
			if err := client.do(cmd.Context(), http.MethodPost, "/v1/accounts:register", nil, request, response); err != nil {
				return err
			}
			if output == "json" {
				return printMessage(cmd.OutOrStdout(), response)
			}
			account := response.GetAccount()
			state := strings.ToLower(strings.TrimPrefix(account.GetState().String(), "ACCOUNT_"))
			var b strings.Builder
			fmt.Fprintf(&b, "%s registered, %s\n", printable(account.GetName()), state)
			writeSecrets(&b, []*catalogv1.Resource{{Kind: &catalogv1.Resource_Token{Token: response.GetToken()}}})
			_, err := fmt.Fprint(cmd.OutOrStdout(), b.String())
			return err
		},
	}
	cmd.Flags().StringVar(&request.AccountId, "id", "", "the last part of the account's name (default: one is chosen)")
	cmd.Flags().StringVar(&request.DisplayName, "display-name", "", "what people call you")
	cmd.Flags().StringVar(&request.Email, "email", "", "where notices and invoices go")
	_, _ = cmd.MarkFlagRequired("display-name"), cmd.MarkFlagRequired("email") // the flags were added above
	addOutput(cmd, &output, "text")
	return cmd
}

func (c *catalogClient) whoAmI(ctx context.Context) (*catalogv1.WhoAmIResponse, error) {
	me := &catalogv1.WhoAmIResponse{}
	return me, c.do(ctx, http.MethodGet, "/v1/whoami", nil, nil, me)
}

func newWhoAmICommand(client *catalogClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "whoami", Short: "Say as whom the server knows you", Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			me, err := client.whoAmI(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return printMessage(cmd.OutOrStdout(), me)
			}
			table := textTable{right: make([]bool, 2)}
			for _, row := range [][]string{
				{"principal", me.GetPrincipal()}, {"role", me.GetRole()}, {"account", me.GetAccount()}, {"scopes", strings.Join(me.GetScopes(), " ")},
			} {
				if row[1] != "" {
					table.add([]string{row[0], printable(row[1])})
				}
			}
			return table.print(cmd.OutOrStdout())
		},
	}
	addOutput(cmd, &output, "text")
	return cmd
}

// auditFlags say which entries of the audit log to show.
type auditFlags struct {
	name, actor, since string
	limit              int
	output             string
}

func newAuditCommand(client *catalogClient) *cobra.Command {
	f := &auditFlags{}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show what was changed in the catalog, and by whom",
		Long:  "Shows changes of the catalog, newest first. -o json has each resource before and after.",
		Example: `  tollway audit --since 7d
  tollway audit --name accounts/acme -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			entries, more, err := f.entries(cmd.Context(), client, time.Now())
			if err != nil {
				return err
			}
			if f.output == "json" {
				return printMessage(cmd.OutOrStdout(), &catalogv1.ListAuditEntriesResponse{Entries: entries})
			}
			if more {
				defer fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d; see them with --limit\n", f.limit)
			}
			return printAudit(cmd, entries)
		},
	}
	cmd.Flags().StringVar(&f.name, "name", "", "entries about the resource of this name and all below it")
	cmd.Flags().StringVar(&f.actor, "actor", "", "entries by this token or login")
	cmd.Flags().StringVar(&f.since, "since", "", "entries of the time up to now: 15m, 24h, 7d, 4w (default: all)")
	cmd.Flags().IntVar(&f.limit, "limit", 100, "most entries to show")
	addOutput(cmd, &f.output, "table")
	return cmd
}

// entries reads pages until there are enough entries or no more.
func (f *auditFlags) entries(ctx context.Context, client *catalogClient, now time.Time) ([]*catalogv1.AuditEntry, bool, error) {
	query := url.Values{}
	if f.since != "" {
		length, err := parseSince(f.since)
		if err != nil {
			return nil, false, usageError("--since %w", err)
		}
		query.Set("start_time", now.Add(-length).UTC().Format(time.RFC3339Nano))
	}
	for key, value := range map[string]string{"name": f.name, "actor": f.actor} {
		if value != "" {
			query.Set(key, value)
		}
	}
	if f.limit < 1 {
		return nil, false, usageError("--limit must be at least 1")
	}
	var entries []*catalogv1.AuditEntry
	for {
		query.Set("page_size", strconv.Itoa(min(f.limit-len(entries), pageSize)))
		page := &catalogv1.ListAuditEntriesResponse{}
		if err := client.do(ctx, http.MethodGet, "/v1/auditEntries", query, nil, page); err != nil {
			return nil, false, err
		}
		entries = append(entries, page.GetEntries()...)
		if page.GetNextPageToken() == "" || len(entries) >= f.limit {
			return entries, page.GetNextPageToken() != "", nil
		}
		query.Set("page_token", page.GetNextPageToken())
	}
}

func printAudit(cmd *cobra.Command, entries []*catalogv1.AuditEntry) error {
	if len(entries) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no entries")
		return nil
	}
	table := textTable{right: make([]bool, 6)}
	table.add([]string{"time", "actor", "role", "method", "name", "fields"})
	for _, e := range entries {
		cells := []string{e.GetTime().AsTime().Format(time.RFC3339), e.GetActor(), e.GetRole(), path.Base(e.GetMethod()), e.GetName(), changedFields(e)}
		for i := range cells {
			cells[i] = printable(cells[i])
		}
		table.add(cells)
	}
	return table.print(cmd.OutOrStdout())
}

// changedFields names the fields that an entry changed, or says that the
// resource came or went.
func changedFields(e *catalogv1.AuditEntry) string {
	_, before := manifest.Open(e.GetBefore())
	_, after := manifest.Open(e.GetAfter())
	switch {
	case before == nil && after == nil:
		return ""
	case before == nil:
		return "created"
	case after == nil:
		return "deleted"
	}
	var names []string
	left, right := before.ProtoReflect(), after.ProtoReflect()
	for i := range left.Descriptor().Fields().Len() {
		f := left.Descriptor().Fields().Get(i)
		if f.Name() != "etag" && f.Name() != "update_time" && !left.Get(f).Equal(right.Get(f)) {
			names = append(names, string(f.Name()))
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
