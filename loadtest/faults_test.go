//go:build faults && linux

package loadtest

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/tollway/tollway/loadtest/oracle"
	"github.com/tollway/tollway/loadtest/proc"
)

func TestFaultNone(t *testing.T) {
	fault(t, layout{}, func(*stage) error { return nil })
}

func TestFaultCollectorKilled(t *testing.T) {
	fault(t, layout{}, func(s *stage) error {
		for range 2 {
			s.wait(time.Second, 3*time.Second)
			if err := s.collector.Kill(); err != nil {
				return err
			}
			if err := s.collector.Start(); err != nil {
				return err
			}
		}
		return s.collector.Ready(s.ctx)
	})
}

func TestFaultEverythingKilled(t *testing.T) {
	fault(t, layout{together: true}, func(s *stage) error {
		s.wait(2*time.Second, 5*time.Second)
		if err := s.store.KillTree(); err != nil {
			return err
		}
		if err := s.store.Start(); err != nil {
			return err
		}
		return s.store.Ready(s.ctx)
	})
}

// Pipelines die at a seam and are started again.
func atSeam(t *testing.T, name string) {
	eachSeed(t, func(t *testing.T, seed uint64) {
		l := layout{pipeline: []string{fmt.Sprintf("TOLLWAY_SEAM=%s:%d", name, 3+5*seed)}}
		if report := play(t, l, seed, func(s *stage) error { return s.restartAfterDeath() }); !report.OK() {
			t.Errorf("seed %d: %s", seed, report)
		}
	})
}

func TestFaultPipelinesKilledAfterIntent(t *testing.T) { atSeam(t, "delivery.intent_committed") }

func TestFaultPipelinesKilledAfterInsert(t *testing.T) { atSeam(t, "load.inserted") }

func TestFaultPipelinesKilledAnywhere(t *testing.T) {
	fault(t, layout{}, func(s *stage) error {
		s.wait(2*time.Second, 5*time.Second)
		if err := s.pipelines.Kill(); err != nil {
			return err
		}
		return s.pipelines.Start()
	})
}

// Killed again and again, also while they join the group. This needs a real
// Kafka: the embedded log keeps a member forever whose connection ended while
// its join was waiting.
func TestFaultPipelinesKilledWhileJoining(t *testing.T) {
	needKafka(t)
	fault(t, layout{brokers: 1}, func(s *stage) error {
		for range 4 {
			s.wait(500*time.Millisecond, 2*time.Second)
			if err := s.pipelines.Kill(); err != nil {
				return err
			}
			if err := s.pipelines.Start(); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestFaultPipelinesKilledInInsert(t *testing.T) {
	fault(t, layout{proxy: true}, func(s *stage) error {
		if err := s.inInsert(10 + s.random.IntN(10)); err != nil {
			return err
		}
		if err := s.pipelines.Kill(); err != nil {
			return err
		}
		return s.pipelines.Start()
	})
}

func TestFaultEngineKilledInInsert(t *testing.T) {
	// Long enough for an engine to come back from each kill and be asked again.
	fault(t, layout{proxy: true, load: 20 * time.Second}, func(s *stage) error {
		for range 3 {
			if err := s.inInsert(5 + s.random.IntN(10)); err != nil {
				return err
			}
			pid, err := proc.Engine(s.store.PID())
			if err != nil {
				return err
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return err
			}
			s.eventually(func() error {
				again, err := proc.Engine(s.store.PID())
				if err == nil && again == pid {
					err = errors.New("the engine is not there again")
				}
				return err
			})
		}
		return nil
	})
}

func TestFaultAnswerOfInsertLost(t *testing.T) {
	fault(t, layout{cut: 0.2}, func(*stage) error { return nil })
}

func TestFaultEventsBeforeFirstConsumer(t *testing.T) {
	fault(t, layout{late: true}, func(s *stage) error {
		s.wait(4*time.Second, 6*time.Second)
		s.startPipelines()
		return nil
	})
}

// The embedded log and the engine are killed under the services that use them.
func TestFaultStoresKilled(t *testing.T) {
	fault(t, layout{}, func(s *stage) error {
		s.wait(2*time.Second, 4*time.Second)
		if err := s.store.KillTree(); err != nil {
			return err
		}
		s.wait(time.Second, 2*time.Second)
		return s.store.Start()
	})
}

// The log does not answer for a while, and then goes on.
func TestFaultStoresStopped(t *testing.T) {
	fault(t, layout{}, func(s *stage) error {
		s.wait(2*time.Second, 4*time.Second)
		if err := s.store.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		s.wait(3*time.Second, 4*time.Second)
		return s.store.Signal(syscall.SIGCONT)
	})
}

func TestFaultSecondConsumerComesAndGoes(t *testing.T) {
	fault(t, layout{}, func(s *stage) error {
		for i := range 2 {
			s.wait(500*time.Millisecond, 1500*time.Millisecond)
			second := s.start(fmt.Sprintf("pipelines-%d", i+2), nil, "serve", "pipelines", "--config", s.config)
			if err := second.Ready(s.ctx); err != nil {
				return err
			}
			s.wait(time.Second, 2*time.Second)
			if err := second.Stop(); err != nil {
				return err
			}
		}
		return nil
	})
}

// A consumer sleeps past its session timeout while another takes over, and
// wakes up in the middle of what it was doing.
func TestFaultConsumerSleeps(t *testing.T) {
	fault(t, layout{}, func(s *stage) error {
		s.wait(time.Second, 2*time.Second)
		if err := s.pipelines.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		sleeper := s.pipelines
		second := s.start("pipelines-2", nil, "serve", "pipelines", "--config", s.config)
		if err := second.Ready(s.ctx); err != nil {
			return err
		}
		s.wait(sessionTimeout+2*time.Second, sessionTimeout+4*time.Second)
		return sleeper.Signal(syscall.SIGCONT)
	})
}

func needKafka(t *testing.T) {
	t.Helper()
	if os.Getenv("TOLLWAY_REAL") != "1" {
		t.Skip("this test needs a real Kafka: make test-faults fetches one and runs it")
	}
}

func TestFaultBrokerKilled(t *testing.T) {
	needKafka(t)
	fault(t, layout{brokers: 1}, func(s *stage) error {
		s.wait(2*time.Second, 4*time.Second)
		if err := s.kafka.Brokers[0].Kill(); err != nil {
			return err
		}
		s.wait(time.Second, 2*time.Second)
		return s.kafka.Brokers[0].Start()
	})
}

func TestFaultOneOfThreeBrokersKilled(t *testing.T) {
	needKafka(t)
	// Long enough to go on after the partitions have new leaders.
	fault(t, layout{brokers: 3, load: 25 * time.Second}, func(s *stage) error {
		s.wait(2*time.Second, 4*time.Second)
		return s.kafka.Brokers[s.random.IntN(3)].Kill()
	})
}

func TestFaultControlCommitBeforeInsert(t *testing.T) {
	control(t, layout{broken: "commit_first", pipeline: []string{"TOLLWAY_SEAM=delivery.intent_committed:9"}}, oracle.NoFate)
}

func TestFaultControlNoTokenNoReadBack(t *testing.T) {
	control(t, layout{broken: "token,read_back", pipeline: []string{"TOLLWAY_SEAM=load.inserted:9"}}, oracle.RolledUp)
}
