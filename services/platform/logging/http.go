package logging

import (
	"log" //nolint:depguard // net/http takes no other logger
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// HTTP makes what a net/http server wants for its own complaints, which are about
// single connections: a failed TLS handshake, a handler that panicked. Anybody who
// can reach the port can cause them, so a few in ten seconds are logged.
func HTTP(to zerolog.Logger) *log.Logger {
	return log.New(complaints{to.Sample(&zerolog.BurstSampler{Burst: 5, Period: 10 * time.Second})}, "", 0)
}

type complaints struct{ log zerolog.Logger }

// Write takes one complaint.
func (c complaints) Write(text []byte) (int, error) {
	c.log.Warn().Str("complaint", strings.TrimSpace(string(text))).Msg("HTTP connection")
	return len(text), nil
}
