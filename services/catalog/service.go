package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/keys"
	"github.com/tollway/tollway/services/catalog/store"
	"github.com/tollway/tollway/services/platform/ledger"
)

// Deps are what the service needs.
type Deps struct {
	Ledger *ledger.DB
	// Changed is called after every change that was committed; it must not wait.
	Changed func()
	// LastUsed is asked once a minute when access tokens were used since it was
	// asked last; nil where nobody knows.
	LastUsed   func() map[string]time.Time
	Now        func() time.Time // nil: the clock
	Log        zerolog.Logger
	Registerer prometheus.Registerer
}

// Service is the gRPC service.
type Service struct {
	catalogv1.UnimplementedCatalogServer

	cfg     Config
	deps    Deps
	hashKey keys.HashKey
	arrival limiter // of registrations
	changes *prometheus.CounterVec
}

// New makes a service. It can be used once Prepare has been called.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Changed == nil {
		deps.Changed = func() {}
	}
	s := &Service{
		cfg: cfg, deps: deps, arrival: limiter{limit: cfg.RegistrationsPerMinute},
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_catalog_changes_total", Help: "Resources that were created, updated and deleted, by kind.",
		}, []string{"kind", "action"}),
	}
	if err := deps.Registerer.Register(s.changes); err != nil {
		return nil, fmt.Errorf("register metrics of the catalog: %w", err)
	}
	return s, nil
}

const hashKeySetting = "catalog.hash_key_check"

// Prepare reads the hash key, or makes one, and sees that it is the one by which
// the hashes in the database were made.
func (s *Service) Prepare(ctx context.Context) error {
	key, err := keys.Load(s.cfg.HashKeyFile)
	if err != nil {
		return err
	}
	var held string
	err = s.deps.Ledger.Tx(ctx, func(tx *ledger.Tx) (err error) {
		held, err = store.AddSetting(ctx, tx, hashKeySetting, key.Check())
		return err
	})
	if err != nil {
		return fmt.Errorf("check the hash key: %w", err)
	}
	if held != key.Check() {
		return fmt.Errorf("%s is not the hash key of this database: no API key would be recognized; put the key back with which the installation began, in catalog.hash_key_file", s.cfg.HashKeyFile)
	}
	s.hashKey = key
	return nil
}

const (
	flushEvery = time.Minute
	flushBatch = 500
)

// Run writes down when access tokens were used, until the context ends.
func (s *Service) Run(ctx context.Context) error {
	if s.deps.LastUsed == nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			// What was used in the last minute is still worth a try.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			s.noteUses(last)
			return nil
		case <-ticker.C:
			s.noteUses(ctx)
		}
	}
}

type use struct {
	token string
	at    time.Time
}

// noteUses writes in small transactions, so that nobody waits long for them.
// What could not be written is lost: it is not worth remembering.
func (s *Service) noteUses(ctx context.Context) {
	var uses []use
	for token, at := range s.deps.LastUsed() {
		// Tokens of the file and logins have other names.
		if strings.HasPrefix(token, "tokens/") {
			uses = append(uses, use{token, at.Truncate(time.Minute)})
		}
	}
	for len(uses) > 0 {
		batch := uses[:min(flushBatch, len(uses))]
		uses = uses[len(batch):]
		err := s.deps.Ledger.Tx(ctx, func(tx *ledger.Tx) error {
			for _, u := range batch {
				if err := store.NoteUse(ctx, tx, u.token, u.at); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			s.deps.Log.Warn().Err(err).Msg("writing down when tokens were used")
		}
	}
}
