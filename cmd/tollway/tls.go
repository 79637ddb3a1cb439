package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/tollway/tollway/services/platform/certs"
)

// clientTLS says whom a command believes to be the server, and what it shows of
// itself.
type clientTLS struct {
	certs.ClientConfig
	// client is made once, when the flags are known, so that calls share
	// connections.
	client func() (*http.Client, error)
}

// add puts the flags on a command and all below it.
func (c *clientTLS) add(cmd *cobra.Command) {
	c.fromEnvironment()
	c.client = sync.OnceValues(c.newClient)
	flags := cmd.PersistentFlags()
	flags.StringVar(&c.CAFile, "ca-file", c.CAFile, "authorities of the server's certificate, in PEM (environment: TOLLWAY_CA_FILE; default: the system's)")
	flags.StringVar(&c.CertFile, "cert-file", c.CertFile, "client certificate, where the server asks for one (environment: TOLLWAY_CERT_FILE)")
	flags.StringVar(&c.KeyFile, "key-file", c.KeyFile, "key of the client certificate (environment: TOLLWAY_KEY_FILE)")
	for _, name := range []string{"ca-file", "cert-file", "key-file"} {
		_ = cmd.MarkPersistentFlagFilename(name) // the flag was added above
	}
}

func (c *clientTLS) fromEnvironment() {
	c.CAFile, c.CertFile, c.KeyFile = os.Getenv("TOLLWAY_CA_FILE"), os.Getenv("TOLLWAY_CERT_FILE"), os.Getenv("TOLLWAY_KEY_FILE")
}

// newClient makes an HTTP client; contexts limit its time.
func (c *clientTLS) newClient() (*http.Client, error) {
	cfg, err := certs.Client(c.ClientConfig)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = cfg
	return &http.Client{Transport: transport}, nil
}

// ownClient is for what a process asks itself, with the environment's files.
func ownClient() (*http.Client, error) {
	var c clientTLS
	c.fromEnvironment()
	return c.newClient()
}

// explainTLS says what to do about a connection that was made and then failed,
// or returns nil.
func explainTLS(server string, err error) error {
	var unknown *tls.CertificateVerificationError
	var network *net.OpError
	switch {
	case errors.As(err, &network) && network.Op == "dial", errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil
	case errors.As(err, &unknown):
		return fmt.Errorf("the certificate of %s is not believed (%w): name its authority with --ca-file or TOLLWAY_CA_FILE", server, unknown.Err)
	case strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS: its address begins with http://", server)
	case strings.HasPrefix(server, "https:"):
		// With TLS 1.3 a server judges a client's certificate when the client has
		// begun to send its request, so that the failure has many faces.
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return fmt.Errorf("ask %s: %w; if it asks for a client certificate, give one with --cert-file and --key-file", server, err)
	}
	return nil
}
