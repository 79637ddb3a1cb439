package kafkaio

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	kafka "github.com/segmentio/kafka-go"
)

// TopicSpec is a topic as it should be.
type TopicSpec struct {
	Name              string
	Partitions        int
	ReplicationFactor int
	// Config holds the broker's own names, for example cleanup.policy and
	// message.timestamp.type.
	Config map[string]string
}

// mustMatch are the topic settings without which the messages' meaning changes;
// a difference in any other setting is the operator's choice.
var mustMatch = []string{"cleanup.policy", "message.timestamp.type"}

// EnsureTopic creates a topic, or checks the one that exists: fewer partitions
// than wanted or another clean-up policy or time stamp type is an error that says
// what to do. More partitions, or other settings that differ, are logged.
func (c *Client) EnsureTopic(ctx context.Context, spec TopicSpec) error {
	if spec.Name == "" || spec.Partitions < 1 || spec.ReplicationFactor < 1 {
		return fmt.Errorf("topic %q: name, partitions (%d) and replication factor (%d) must be given", spec.Name, spec.Partitions, spec.ReplicationFactor)
	}
	created, err := c.createTopic(ctx, spec)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", spec.Name, err)
	}
	if err := c.awaitTopic(ctx, spec.Name); err != nil {
		return fmt.Errorf("wait for topic %s: %w", spec.Name, err)
	}
	if created {
		c.log.Info().Str("topic", spec.Name).Int("partitions", spec.Partitions).Int("replication_factor", spec.ReplicationFactor).Msg("topic created")
		return nil
	}
	return c.checkTopic(ctx, spec)
}

func (c *Client) createTopic(ctx context.Context, spec TopicSpec) (created bool, err error) {
	topic := kafka.TopicConfig{Topic: spec.Name, NumPartitions: spec.Partitions, ReplicationFactor: spec.ReplicationFactor}
	for _, k := range slices.Sorted(maps.Keys(spec.Config)) {
		topic.ConfigEntries = append(topic.ConfigEntries, kafka.ConfigEntry{ConfigName: k, ConfigValue: spec.Config[k]})
	}
	err = c.retry(ctx, "create_topics", func() error {
		created = false
		ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
		defer cancel()
		res, err := c.kafka.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{topic}})
		if err != nil {
			return err
		}
		switch err := res.Errors[spec.Name]; {
		case err == nil:
			created = true
			return nil
		case errors.Is(err, kafka.TopicAlreadyExists):
			return nil
		case errors.Is(err, kafka.InvalidReplicationFactor):
			return fmt.Errorf("replication factor %d is more than the cluster has brokers: lower it or start more brokers: %w", spec.ReplicationFactor, err)
		default:
			return err
		}
	})
	return created, err
}

// awaitTopic waits until every partition of a topic has a leader that the cached
// metadata knows, because creation reaches the brokers one by one.
func (c *Client) awaitTopic(ctx context.Context, topic string) error {
	return c.retry(ctx, "metadata", func() error {
		t, err := c.metadata(ctx, topic)
		if err != nil {
			return err
		}
		if len(t.Partitions) == 0 {
			return kafka.UnknownTopicOrPartition
		}
		for _, p := range t.Partitions {
			if p.Error != nil && !errors.Is(p.Error, kafka.ReplicaNotAvailable) {
				return p.Error
			}
		}
		return nil
	})
}

func (c *Client) checkTopic(ctx context.Context, spec TopicSpec) error {
	t, err := c.metadata(ctx, spec.Name)
	if err != nil {
		return fmt.Errorf("check topic %s: %w", spec.Name, err)
	}
	if n := len(t.Partitions); n < spec.Partitions {
		return fmt.Errorf("topic %s has %d partitions, %d are configured: lower the configured number to %d, or add partitions to the topic while nothing is being produced (messages of one key may then be in two partitions)",
			spec.Name, n, spec.Partitions, n)
	} else if n > spec.Partitions {
		c.log.Info().Str("topic", spec.Name).Int("partitions", n).Int("configured", spec.Partitions).Msg("topic has more partitions than configured, all are used")
	}
	if n := len(t.Partitions[0].Replicas); n < spec.ReplicationFactor {
		c.log.Warn().Str("topic", spec.Name).Int("replication_factor", n).Int("configured", spec.ReplicationFactor).Msg("topic has fewer replicas than configured")
	}
	actual, err := c.topicConfig(ctx, spec)
	if err != nil {
		return fmt.Errorf("check settings of topic %s: %w", spec.Name, err)
	}
	return c.compareTopicConfig(spec, actual)
}

func (c *Client) compareTopicConfig(spec TopicSpec, actual map[string]string) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(spec.Config)) {
		want := spec.Config[key]
		got, known := actual[key]
		switch {
		case !known || got == want:
		case slices.Contains(mustMatch, key):
			errs = append(errs, fmt.Errorf("topic %s has %s=%s, %s is needed: change it with kafka-configs --alter --topic %s --add-config %s=%s, or configure another topic name",
				spec.Name, key, got, want, spec.Name, key, want))
		default:
			c.log.Warn().Str("topic", spec.Name).Str("setting", key).Str("value", got).Str("configured", want).Msg("topic setting differs from the configured one")
		}
	}
	return errors.Join(errs...)
}

func (c *Client) topicConfig(ctx context.Context, spec TopicSpec) (map[string]string, error) {
	if len(spec.Config) == 0 {
		return nil, nil
	}
	actual := map[string]string{}
	err := c.retry(ctx, "describe_configs", func() error {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
		defer cancel()
		res, err := c.kafka.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: spec.Name, ConfigNames: slices.Sorted(maps.Keys(spec.Config)),
		}}})
		if err != nil {
			return err
		}
		for _, r := range res.Resources {
			if r.Error != nil {
				return r.Error
			}
			for _, e := range r.ConfigEntries {
				actual[e.ConfigName] = e.ConfigValue
			}
		}
		return nil
	})
	return actual, err
}
