package clickhouse

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// answerLimit bounds what is read of an answer that should be empty.
const answerLimit = 64 << 10

// insertClient keeps as many connections open as inserts may run at once.
func insertClient(cfg Config, tlsConfig *tls.Config) *http.Client {
	dialer := &net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 15 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:         dialer.DialContext,
			TLSClientConfig:     tlsConfig,
			TLSHandshakeTimeout: cfg.DialTimeout,
			MaxIdleConnsPerHost: cfg.MaxInserts,
			MaxConnsPerHost:     cfg.MaxInserts,
			// The server closes idle connections after 10 s; being first
			// avoids writing into one that is about to go.
			IdleConnTimeout:    8 * time.Second,
			DisableCompression: true,
			WriteBufferSize:    128 << 10,
		},
		// A redirect would repeat the insert elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// InsertArrow sends one Arrow IPC stream as one INSERT into table, which may be
// qualified by a database. It returns nil only when the server has said that
// everything is stored. The next address is tried only when the one before it
// cannot be reached at all, so that the stream is never sent twice.
func (db *DB) InsertArrow(ctx context.Context, table string, columns []string, settings map[string]any, body io.Reader) error {
	if len(db.cfg.HTTPAddresses) == 0 {
		return errNoHTTP
	}
	select {
	case db.inserts <- struct{}{}:
		defer func() { <-db.inserts }()
	case <-ctx.Done():
		return &transportError{err: fmt.Errorf("insert into %s: %w", table, ctx.Err()), unsent: true}
	}
	// The server is told its limit; this one is for a server that is not there
	// to keep it.
	ctx, cancel := context.WithTimeout(ctx, db.cfg.MaxExecutionTime+readSlack)
	defer cancel()

	source := &onceReader{reader: body}
	defer source.stop()
	query := db.insertQuery(table, columns, settings)
	var err error
	for _, address := range db.cfg.HTTPAddresses {
		err = db.post(ctx, address, query, source)
		if err == nil {
			return nil
		}
		var transport *transportError
		if !errors.As(err, &transport) || !transport.unsent || source.isStarted() {
			break
		}
	}
	return fmt.Errorf("insert into %s: %w", table, err)
}

// onceReader remembers whether reading has begun. The HTTP client may still be
// reading when it has already handed over an early refusal; stop takes the
// caller's reader away from it, so that it can be used again at once.
type onceReader struct {
	mu      sync.Mutex
	reader  io.Reader
	started bool
}

func (r *onceReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reader == nil {
		return 0, net.ErrClosed
	}
	r.started = true
	return r.reader.Read(p)
}

func (r *onceReader) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reader = nil
}

func (r *onceReader) isStarted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.started
}

// size is -1 when the reader does not know.
func (r *onceReader) size() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sized, ok := r.reader.(interface{ Len() int }); ok {
		return int64(sized.Len())
	}
	return -1
}

func (db *DB) insertQuery(table string, columns []string, settings map[string]any) url.Values {
	var sql strings.Builder
	sql.WriteString("INSERT INTO ")
	if database, name, qualified := strings.Cut(table, "."); qualified {
		sql.WriteString(Identifier(database) + "." + Identifier(name))
	} else {
		sql.WriteString(Identifier(table))
	}
	for i, column := range columns {
		sql.WriteString([]string{" (", ", "}[min(i, 1)])
		sql.WriteString(Identifier(column))
	}
	if len(columns) > 0 {
		sql.WriteByte(')')
	}
	sql.WriteString(" FORMAT ArrowStream")

	values := url.Values{}
	values.Set("database", db.cfg.Database)
	values.Set("max_execution_time", strconv.Itoa(seconds(db.cfg.MaxExecutionTime)))
	for name, value := range settings {
		values.Set(name, fmt.Sprint(plain(value)))
	}
	values.Set("query", sql.String())
	// Without it the server answers 200 before it knows how the insert ends.
	values.Set("wait_end_of_query", "1")
	return values
}

func (db *DB) post(ctx context.Context, address string, query url.Values, body *onceReader) error {
	target := url.URL{Scheme: "http", Host: address, Path: "/", RawQuery: query.Encode()}
	if db.cfg.TLS.Enabled {
		target.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), body)
	if err != nil {
		return err
	}
	request.ContentLength = body.size()
	request.Header.Set("X-ClickHouse-User", db.cfg.Username)
	request.Header.Set("X-ClickHouse-Key", db.cfg.Password.Reveal())
	request.Header.Set("Content-Type", "application/octet-stream")

	response, err := db.http.Do(request)
	if err != nil {
		// The client's error repeats the address with the whole query in it.
		var outer *url.Error
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return &transportError{err: fmt.Errorf("post to %s: %w", address, err), unsent: isDial(err)}
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return &transportError{err: fmt.Errorf("read the answer of %s: %w", address, err)}
	}
	return judge(response.StatusCode, response.Header, answer)
}

// statusError is an HTTP answer that is not the server's own: a proxy's.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("http status %d: %s", e.code, e.text) }

var exceptionPattern = regexp.MustCompile(`(?s)Code: (\d+)\.\s*(.*)`)
var namePattern = regexp.MustCompile(`\(([A-Z][A-Z0-9_]{2,})\)`)

// judge is nil only for an answer that promises that the insert is stored. An
// exception that comes after the header stands in the body.
func judge(status int, header http.Header, answer []byte) error {
	code, _ := strconv.Atoi(header.Get("X-ClickHouse-Exception-Code"))
	match := exceptionPattern.FindSubmatch(answer)
	inBody := match != nil && (status != http.StatusOK || bytes.Contains(answer, []byte("__exception__")) || bytes.HasPrefix(answer, []byte("Code: ")))
	if code == 0 && inBody {
		code, _ = strconv.Atoi(string(match[1]))
	}
	switch {
	case code != 0:
		text := string(answer)
		if inBody {
			text = string(match[2])
		}
		text = strings.TrimPrefix(strings.TrimSpace(text), "DB::Exception: ")
		e := &Error{Code: code, Message: text}
		if names := namePattern.FindAllStringSubmatch(text, -1); names != nil {
			e.Name = names[len(names)-1][1]
		}
		return e
	case status != http.StatusOK:
		return &statusError{code: status, text: shorten(answer)}
	case bytes.Contains(answer, []byte("__exception__")):
		return &statusError{code: http.StatusInternalServerError, text: shorten(answer)}
	}
	return nil
}

func shorten(answer []byte) string {
	return strings.TrimSpace(string(answer[:min(len(answer), 500)]))
}

func isBrokenConnection(err error) bool {
	for _, target := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
