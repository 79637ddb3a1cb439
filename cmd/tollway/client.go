package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
)

const (
	defaultServer    = "http://127.0.0.1:7602"
	defaultTokenFile = "data/admin.token"
	maxAnswer        = 256 << 20
)

// Exit codes: 0 for success, 1 for a request that was refused or found
// nothing, 2 for a command line that cannot be understood.
const (
	exitFailed = 1
	exitUsage  = 2
)

// An exitError ends the program with a code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// ExitCode is what main passes to os.Exit.
func (e *exitError) ExitCode() int { return e.code }

// errSilent ends a command that has said everything already.
var errSilent = errors.New("")

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// clientFlags say which server to ask, and as whom.
type clientFlags struct {
	server    string
	tokenFile string
	timeout   time.Duration
	tls       clientTLS
}

// add puts the flags on a command and all below it.
func (f *clientFlags) add(cmd *cobra.Command) {
	server := os.Getenv("TOLLWAY_SERVER")
	if server == "" {
		server = defaultServer
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.server, "server", server, "address of the API (environment: TOLLWAY_SERVER)")
	flags.StringVar(&f.tokenFile, "token-file", "", "file that holds the bearer token (default TOLLWAY_TOKEN, or "+defaultTokenFile+" if it is there)")
	flags.DurationVar(&f.timeout, "timeout", time.Minute, "give up after this time")
	_ = cmd.MarkPersistentFlagFilename("token-file") // the flag was added above
	f.tls.add(cmd)
}

// token finds the bearer token; none is an empty string, for the server to
// judge.
func (f *clientFlags) token() (string, error) {
	path := f.tokenFile
	if path == "" {
		if token := strings.TrimSpace(os.Getenv("TOLLWAY_TOKEN")); token != "" {
			return token, nil
		}
		path = defaultTokenFile
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && f.tokenFile == "" {
		return "", nil
	}
	if err != nil {
		return "", usageError("read the token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// call sends a request and reads the JSON answer into out.
func (f *clientFlags) call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	base, err := url.Parse(f.server)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return usageError("--server %q is not an address such as %s", f.server, defaultServer)
	}
	token, err := f.token()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		payload = bytes.NewReader(text)
	}
	target := strings.TrimSuffix(base.String(), "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client, err := f.tls.client()
	if err != nil {
		return usageError("%w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return f.explain(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return f.explain(err)
	}
	if response.StatusCode != http.StatusOK {
		return f.refused(response.StatusCode, answer)
	}
	decoder := json.NewDecoder(bytes.NewReader(answer))
	decoder.UseNumber()
	if err := decoder.Decode(out); err != nil {
		return fmt.Errorf("%s answers with something that is not JSON; is it the address of Tollway's API? (%w)", f.server, err)
	}
	return nil
}

// explain says what to do when the server cannot be reached.
func (f *clientFlags) explain(err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens at %s: start Tollway with `tollway up` (or `make run`), or name its address with --server or TOLLWAY_SERVER", f.server)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer within %s: try again, or allow more with --timeout", f.server, f.timeout)
	}
	if explained := explainTLS(f.server, err); explained != nil {
		return explained
	}
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return fmt.Errorf("ask %s: %w", f.server, err)
}

// A refusal is an answer that is not a success, with what it says about single
// fields of the request.
type refusal struct {
	status     int
	violations []violation
	error
}

type violation struct{ Field, Description string }

// statusOf is the status of the answer that an error stands for, or 0.
func statusOf(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return 0
}

// refused turns an answer that is not 200 into an error: problem details (RFC
// 9457), the gateway's own form, or whatever a proxy says.
func (f *clientFlags) refused(code int, body []byte) error {
	var problem struct {
		Title, Detail, Message, Code string
		Violations                   []violation
	}
	text := ""
	if json.Unmarshal(body, &problem) == nil {
		for _, candidate := range []string{problem.Detail, problem.Message, problem.Title} {
			if text == "" {
				text = candidate
			}
		}
	}
	if text == "" {
		text = strings.ToLower(http.StatusText(code))
	}
	refused := func(err error) error { return &refusal{code, problem.Violations, err} }
	switch code {
	case http.StatusUnauthorized:
		path, err := filepath.Abs(defaultTokenFile)
		if err != nil {
			path = defaultTokenFile
		}
		return refused(fmt.Errorf("not authenticated: %s; give a token with --token-file or TOLLWAY_TOKEN (`tollway up` keeps the administrator's in %s)", text, path))
	case http.StatusForbidden:
		return refused(fmt.Errorf("not allowed: %s", text))
	case http.StatusBadRequest:
		if problem.Code == codes.FailedPrecondition.String() {
			return refused(errors.New(text)) // well said, and refused all the same
		}
		return &exitError{exitUsage, refused(errors.New(text))}
	}
	return refused(fmt.Errorf("%s (status %d)", text, code))
}

// complete offers the rest of a comma-separated list of names.
func complete(names []string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		before := ""
		if i := strings.LastIndexByte(typed, ','); i >= 0 {
			before = typed[:i+1]
		}
		chosen := strings.Split(before, ",")
		var offers []string
		for _, name := range names {
			taken := false
			for _, c := range chosen {
				taken = taken || c == name
			}
			if !taken && strings.HasPrefix(before+name, typed) {
				offers = append(offers, before+name)
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}
