package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tollway/tollway/pipelines/delivery"
	"github.com/tollway/tollway/services/events"
	"github.com/tollway/tollway/services/platform/kafkaio"
)

// deadLetters is the dead-letter topic, which has one partition: letters are
// few, and their order helps whoever reads them.
type deadLetters struct {
	client   *kafkaio.Client
	producer *kafkaio.Producer
	topic    string
}

// List reads a page; the token is the offset to continue from.
func (d *deadLetters) List(ctx context.Context, pageSize int, pageToken string) (events.Page, error) {
	offsets, err := d.client.Offsets(ctx, d.topic)
	if err != nil {
		return events.Page{}, err
	}
	first, last := offsets[0].First, offsets[0].Last
	from := first
	if pageToken != "" {
		at, err := strconv.ParseInt(pageToken, 10, 64)
		if err != nil || at < 0 || at > last {
			return events.Page{}, events.ErrBadToken
		}
		from = max(first, at)
	}
	page := events.Page{Waiting: last - first}
	f := kafkaio.NewFetcher(d.client, d.topic, 0, from, kafkaio.DefaultFetchConfig())
	for f.Offset() < last && len(page.Letters) < pageSize {
		res, err := f.Next(ctx)
		if err != nil {
			return events.Page{}, err
		}
		for _, m := range res.Messages {
			if len(page.Letters) == pageSize {
				break
			}
			page.Letters = append(page.Letters, letter(m))
			from = m.Offset + 1
		}
	}
	if from < last {
		page.Next = strconv.FormatInt(from, 10)
	}
	return page, nil
}

func letter(m kafkaio.Fetched) events.DeadLetter {
	l := events.DeadLetter{ID: fmt.Sprintf("0-%d", m.Offset), Time: m.Time, Bytes: int64(len(m.Value))}
	for _, h := range m.Headers {
		switch v := string(h.Value); h.Key {
		case delivery.ReasonHeader:
			l.Reason = v
		case delivery.TopicHeader:
			l.OriginTopic = v
		case delivery.PartitionHeader:
			l.OriginPartition, _ = strconv.Atoi(v) // written by the pipelines
		case delivery.OffsetHeader:
			l.OriginOffset, _ = strconv.ParseInt(v, 10, 64)
		}
	}
	return l
}

// Redrive writes letters to the end of the partition they came from. The
// letter stays: were the message to be stored twice, dedupe would drop a copy.
func (d *deadLetters) Redrive(ctx context.Context, ids []string) ([]events.Redriven, error) {
	offsets, err := d.client.Offsets(ctx, d.topic)
	if err != nil {
		return nil, err
	}
	out := make([]events.Redriven, len(ids))
	for i, id := range ids {
		out[i] = d.redrive(ctx, id, offsets[0])
	}
	return out, nil
}

var errNoLetter = errors.New("there is no such dead letter")

func (d *deadLetters) redrive(ctx context.Context, id string, present kafkaio.OffsetRange) events.Redriven {
	done := events.Redriven{ID: id}
	text, ok := strings.CutPrefix(id, "0-")
	offset, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || offset < present.First || offset >= present.Last {
		done.Err = errNoLetter
		return done
	}
	res, err := kafkaio.NewFetcher(d.client, d.topic, 0, offset, kafkaio.DefaultFetchConfig()).Next(ctx)
	if err != nil {
		done.Err = err
		return done
	}
	if len(res.Messages) == 0 || res.Messages[0].Offset != offset {
		done.Err = errNoLetter
		return done
	}
	m := res.Messages[0]
	origin := letter(m)
	headers := slices.DeleteFunc(slices.Clone(m.Headers), func(h kafkaio.Header) bool { return strings.HasPrefix(h.Key, "tollway-") })
	done.Partition, done.Offset = origin.OriginPartition, origin.OriginOffset
	done.Err = d.producer.Produce(ctx, origin.OriginTopic, origin.OriginPartition, []kafkaio.Message{{Key: m.Key, Value: m.Value, Headers: headers}})
	return done
}
