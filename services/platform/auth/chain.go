package auth

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Chain asks several authenticators in turn, and slows down who guesses.
type Chain struct {
	parts    []Authenticator
	failures *failures
	now      func() time.Time
	refused  *prometheus.CounterVec
}

// NewChain makes a chain; what is cheap to ask, and what does not depend on
// others, goes first.
func NewChain(reg prometheus.Registerer, parts ...Authenticator) *Chain {
	c := &Chain{parts: parts, failures: newFailures(), now: time.Now, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollway_auth_refused_total", Help: "Calls whose token was missing or not good, that came from a locked-out address, or that could not be judged.",
	}, []string{"reason"})}
	reg.MustRegister(c.refused)
	return c
}

// Add appends an authenticator. It must be called before the chain is used.
func (c *Chain) Add(a Authenticator) { c.parts = append(c.parts, a) }

// Authenticate tells who calls. A good token always passes. An address that keeps
// failing gets a *LockedOutError instead of ErrUnauthenticated: the callers behind
// a shared address are not punished for one of them.
func (c *Chain) Authenticate(ctx context.Context, bearer string) (Principal, error) {
	var unable error
	for _, a := range c.parts {
		p, err := a.Authenticate(ctx, bearer)
		switch {
		case err == nil:
			return p, nil
		case errors.Is(err, errForbidden):
			return Principal{}, err // known, and has no rights
		case !errors.Is(err, ErrUnauthenticated):
			unable = err
		}
	}
	if unable != nil {
		c.refused.WithLabelValues("unavailable").Inc()
		return Principal{}, unable
	}
	if bearer == "" {
		// Nothing was guessed.
		c.refused.WithLabelValues("missing").Inc()
		return Principal{}, ErrUnauthenticated
	}
	if wait := c.failures.add(remote(ctx), c.now()); wait > 0 {
		c.refused.WithLabelValues("locked_out").Inc()
		return Principal{}, &LockedOutError{RetryAfter: wait}
	}
	c.refused.WithLabelValues("bad").Inc()
	return Principal{}, ErrUnauthenticated
}
