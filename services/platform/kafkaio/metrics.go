package kafkaio

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	kafka "github.com/segmentio/kafka-go"
)

type metrics struct {
	producedMessages *prometheus.CounterVec
	producedBytes    *prometheus.CounterVec
	produceSeconds   *prometheus.HistogramVec
	fetchedMessages  *prometheus.CounterVec
	fetchedBytes     *prometheus.CounterVec
	retries          *prometheus.CounterVec
	refreshes        prometheus.Counter
	generations      *prometheus.CounterVec
	connections      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		producedMessages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_kafkaio_produced_messages_total", Help: "Messages acknowledged by all in-sync replicas.",
		}, []string{"topic"}),
		producedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_kafkaio_produced_bytes_total", Help: "Bytes of acknowledged keys and values before compression.",
		}, []string{"topic"}),
		produceSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tollway_kafkaio_produce_seconds", Help: "Time until a produce call was acknowledged, retries included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"topic"}),
		fetchedMessages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_kafkaio_fetched_messages_total", Help: "Messages fetched and handed on.",
		}, []string{"topic"}),
		fetchedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_kafkaio_fetched_bytes_total", Help: "Bytes of fetched keys and values after decompression.",
		}, []string{"topic"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_kafkaio_retries_total", Help: "Requests repeated after an error, by request and reason.",
		}, []string{"request", "reason"}),
		refreshes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollway_kafkaio_metadata_refreshes_total", Help: "Times cached cluster metadata was dropped after an error.",
		}),
		generations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_kafkaio_generations_total", Help: "Consumer group generations this process took part in.",
		}, []string{"group"}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollway_kafkaio_open_connections", Help: "Open connections to brokers.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.producedMessages, m.producedBytes, m.produceSeconds, m.fetchedMessages, m.fetchedBytes,
		m.retries, m.refreshes, m.generations, m.connections,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// reason is a label of bounded cardinality: Kafka's error code or "network".
func reason(err error) string {
	var code kafka.Error
	if errors.As(err, &code) {
		return strconv.Itoa(int(code))
	}
	return "network"
}
