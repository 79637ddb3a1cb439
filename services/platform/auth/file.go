package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"gopkg.in/yaml.v3"
)

// TokensFile is the name of the file of hashes in a data folder.
const TokensFile = "tokens.yaml"

// Token describes one token; the token itself is not kept.
type Token struct {
	Name string `yaml:"name"`
	Role Role   `yaml:"role"`
	// Account is an account's id or resource name.
	Account string    `yaml:"account,omitempty"`
	Scopes  []string  `yaml:"scopes,omitempty"`
	Hash    string    `yaml:"hash"`
	Expires time.Time `yaml:"expires,omitempty"`
}

type tokensFile struct {
	Tokens []Token `yaml:"tokens"`
}

// writing serialises changes of token files within this process.
var writing sync.Mutex

// CreateToken adds a token to a file and returns it; it cannot be shown again.
// Name, Role, Account, Scopes and Expires of t are used; a zero Expires means never.
func CreateToken(path string, t Token) (string, error) {
	writing.Lock()
	defer writing.Unlock()
	file, err := readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	token, _, err := NewToken(t.Role)
	if err != nil {
		return "", err
	}
	if err := file.add(t, token); err != nil {
		return "", err
	}
	return token, file.write(path)
}

// RevokeToken removes a token by its name.
func RevokeToken(path, name string) error {
	writing.Lock()
	defer writing.Unlock()
	file, err := readFile(path)
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(file.Tokens), func(t Token) bool { return t.Name == name })
	if len(kept) == len(file.Tokens) {
		return fmt.Errorf("no token is named %q", name)
	}
	file.Tokens = kept
	return file.write(path)
}

// FirstStart makes sure that a data folder has its token file. If it has none, it
// makes one with a token for the administrator and one for gateways, and leaves
// their texts in admin.token and gateway.token, which only the owner can read. A
// start that was cut short is completed with the tokens it had already written.
func FirstStart(dir string) error {
	writing.Lock()
	defer writing.Unlock()
	path := filepath.Join(dir, TokensFile)
	if _, err := os.Stat(path); err == nil {
		_, err := readFile(path)
		return err
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for tokens: %w", err)
	}
	var file tokensFile
	for _, role := range []Role{Admin, Gateway} {
		token, err := firstToken(filepath.Join(dir, string(role)+".token"), role)
		if err != nil {
			return err
		}
		if err := file.add(Token{Name: string(role), Role: role}, token); err != nil {
			return err
		}
	}
	return file.write(path)
}

func firstToken(path string, role Role) (string, error) {
	if b, err := os.ReadFile(path); err == nil {
		if token := strings.TrimSpace(string(b)); strings.HasPrefix(token, "tw_"+prefixes[role]+"_") {
			return token, os.Chmod(path, 0o600)
		}
	}
	token, _, err := NewToken(role)
	if err != nil {
		return "", err
	}
	return token, writeWhole(path, []byte(token+"\n"))
}

func readFile(path string) (tokensFile, error) {
	var file tokensFile
	b, err := os.ReadFile(path)
	if err != nil {
		return file, fmt.Errorf("read tokens: %w", err)
	}
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		return file, fmt.Errorf("read tokens from %s: %w", path, err)
	}
	_, err = file.entries()
	if err != nil {
		return file, fmt.Errorf("read tokens from %s: %w", path, err)
	}
	return file, nil
}

func (f *tokensFile) add(t Token, token string) error {
	hash, ok := hashToken(token)
	if !ok {
		return errors.New("token has an impossible length")
	}
	t.Hash = "sha256:" + hex.EncodeToString(hash[:])
	f.Tokens = append(f.Tokens, t)
	_, err := f.entries()
	return err
}

// entries checks the tokens and indexes them.
func (f *tokensFile) entries() (map[tokenHash]entry, error) {
	out := make(map[tokenHash]entry, len(f.Tokens))
	names := map[string]bool{}
	for _, t := range f.Tokens {
		if t.Name == "" || names[t.Name] {
			return nil, fmt.Errorf("token name %q is empty or used twice", t.Name)
		}
		names[t.Name] = true
		if _, ok := prefixes[t.Role]; !ok {
			return nil, fmt.Errorf("token %s: role is %q, must be admin, product_manager, finance, gateway or consumer", t.Name, t.Role)
		}
		if (t.Role == Consumer) != (t.Account != "") {
			return nil, fmt.Errorf("token %s: an account belongs to a consumer's token and to no other", t.Name)
		}
		for _, scope := range t.Scopes {
			if !scopeName.MatchString(scope) {
				return nil, fmt.Errorf("token %s: scope is %q, must be like reports.read", t.Name, scope)
			}
		}
		e := entry{principal: Principal{Name: t.Name, Role: t.Role, Account: accountID(t.Account), Scopes: t.Scopes, TokenName: t.Name}, expires: t.Expires}
		text, ok := strings.CutPrefix(t.Hash, "sha256:")
		if n, err := hex.Decode(e.hash[:], []byte(text)[:min(len(text), 64)]); !ok || err != nil || n != len(e.hash) || len(text) != 64 {
			return nil, fmt.Errorf("token %s: hash must be sha256: and 64 hexadecimal digits", t.Name)
		}
		out[e.hash] = e
	}
	return out, nil
}

func (f *tokensFile) write(path string) error {
	b, err := yaml.Marshal(f)
	if err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	return writeWhole(path, b)
}

// writeWhole replaces a file so that a crash leaves the old or the new one.
func writeWhole(path string, content []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	// CreateTemp makes files of mode 0600.
	if _, err = tmp.Write(content); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// recheck is how long a change of the file may go unnoticed.
const recheck = 500 * time.Millisecond

// Tokens authenticates against a token file and follows its changes.
type Tokens struct {
	path string
	log  zerolog.Logger
	now  func() time.Time

	entries atomic.Pointer[map[tokenHash]entry]
	next    atomic.Int64 // when to look at the file again, Unix nanoseconds

	mu   sync.Mutex
	seen fileState
}

type fileState struct {
	modified time.Time
	size     int64
}

// OpenTokens reads a token file.
func OpenTokens(path string, log zerolog.Logger) (*Tokens, error) {
	t := &Tokens{path: path, log: log, now: time.Now}
	if err := t.reload(); err != nil {
		return nil, err
	}
	return t, nil
}

// Authenticate tells whose token it is.
func (t *Tokens) Authenticate(_ context.Context, bearer string) (Principal, error) {
	now := t.now()
	t.follow(now)
	if p, ok := lookup(*t.entries.Load(), bearer, now); ok {
		return p, nil
	}
	return Principal{}, ErrUnauthenticated
}

// follow reads the file again if it has changed. A file that cannot be read
// leaves the tokens as they were.
func (t *Tokens) follow(now time.Time) {
	next := t.next.Load()
	wait := next - now.UnixNano()
	// A wait longer than was set means that the clock was put back.
	if wait > 0 && wait <= int64(recheck) || !t.next.CompareAndSwap(next, now.Add(recheck).UnixNano()) {
		return
	}
	if err := t.reload(); err != nil {
		t.log.Error().Err(err).Msg("changed tokens are not taken over, the earlier ones stay valid")
	}
}

func (t *Tokens) reload() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	state := fileState{modified: info.ModTime(), size: info.Size()}
	if state == t.seen {
		return nil
	}
	file, err := readFile(t.path)
	if err != nil {
		return err
	}
	entries, err := file.entries()
	if err != nil {
		return err
	}
	t.seen = state
	t.entries.Store(&entries)
	return nil
}
