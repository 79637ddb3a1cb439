package gen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Journal notes what is sent. Attempted returns when the note would survive a
// crash, and before the events are sent; Acked comes after the answer.
type Journal interface {
	Attempted(events []Event) error
	Acked(events []Event) error
}

// HTTP is a load of CloudEvents batches.
type HTTP struct {
	URL         string // of the collector, without the path
	Token       string
	Connections int
	Batch       int     // events in a request
	Rate        float64 // events per second over all connections
	Seed        uint64
	Name        string
	Mix         Mix
	Journal     Journal
	// Abandon is the share of requests that failed and are not repeated: a
	// client that gives up.
	Abandon float64
}

// Sent is what became of a load.
type Sent struct {
	Attempted, Acked, Duplicates, Rejected, Abandoned int64
	Failures                                          int64 // requests without a 2xx
}

func (s *Sent) add(o Sent) {
	s.Attempted += o.Attempted
	s.Acked += o.Acked
	s.Duplicates += o.Duplicates
	s.Rejected += o.Rejected
	s.Abandoned += o.Abandoned
	s.Failures += o.Failures
}

// Run sends until ctx ends. What fails is repeated, with the same ids and
// times, or abandoned; repetition goes on for a while after ctx has ended.
func (h HTTP) Run(ctx context.Context) (Sent, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: h.Connections}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	var wg sync.WaitGroup
	sent := make([]Sent, h.Connections)
	errs := make([]error, h.Connections)
	for i := range h.Connections {
		c := connection{
			HTTP: h, client: client,
			source: NewSource(fmt.Sprintf("%s-%d", h.Name, i), h.Seed<<8|uint64(i), h.Mix),
			random: rand.New(rand.NewPCG(h.Seed, uint64(i))),
		}
		wg.Go(func() {
			errs[i] = c.run(ctx)
			sent[i] = c.sent
		})
	}
	wg.Wait()
	var total Sent
	for _, s := range sent {
		total.add(s)
	}
	return total, errors.Join(errs...)
}

type connection struct {
	HTTP
	client *http.Client
	source *Source
	random *rand.Rand
	sent   Sent
	body   []byte
}

func (c *connection) run(ctx context.Context) error {
	pause := time.Duration(float64(c.Batch*c.Connections) / c.Rate * float64(time.Second))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	events := make([]Event, 0, c.Batch)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		events = events[:0]
		for range c.Batch {
			events = append(events, c.source.Next(time.Now()))
		}
		if err := c.Journal.Attempted(events); err != nil {
			return err
		}
		c.sent.Attempted += int64(len(events))
		if err := c.deliver(ctx, events); err != nil {
			return err
		}
	}
}

// patience is how long a batch is repeated after the load has ended.
const patience = 60 * time.Second

func (c *connection) deliver(ctx context.Context, events []Event) error {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(patience, cancel) })()
	c.body = AppendBatch(c.body[:0], events)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		answer, err := Post(last, c.client, c.URL, c.Token, c.body)
		if err == nil {
			c.sent.Acked += int64(len(events))
			c.sent.Duplicates += answer.Duplicates
			c.sent.Rejected += answer.Rejected
			if answer.Rejected > 0 {
				return fmt.Errorf("%d events of a batch were rejected: %s", answer.Rejected, answer.Results)
			}
			return c.Journal.Acked(events)
		}
		c.sent.Failures++
		if errors.Is(err, errRefused) {
			return err
		}
		if c.random.Float64() < c.Abandon || last.Err() != nil {
			c.sent.Abandoned += int64(len(events))
			return nil
		}
		select {
		case <-last.Done():
		case <-time.After(pause):
		}
	}
}

// Answer is the collector's to a batch.
type Answer struct {
	Accepted   int64           `json:"accepted"`
	Duplicates int64           `json:"duplicates"`
	Rejected   int64           `json:"rejected"`
	Results    json.RawMessage `json:"results"`
}

var errRefused = errors.New("the collector refused the request")

// Post sends one batch. It is an error when the answer is not 2xx.
func Post(ctx context.Context, client *http.Client, url, token string, body []byte) (Answer, error) {
	var answer Answer
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/events", bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/cloudevents-batch+json")
	res, err := client.Do(req)
	if err != nil {
		return answer, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	switch {
	case res.StatusCode >= 400 && res.StatusCode < 500 && res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusRequestTimeout:
		return answer, fmt.Errorf("%w: %s: %s", errRefused, res.Status, text)
	case res.StatusCode/100 != 2:
		return answer, fmt.Errorf("post events: %s: %s", res.Status, text)
	case err != nil:
		return answer, fmt.Errorf("read the answer: %w", err)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, fmt.Errorf("read the answer: %w", err)
	}
	return answer, nil
}
