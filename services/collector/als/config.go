package als

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/tollway/tollway/services/collector/envoy"
)

// Config of the access log service.
type Config struct {
	envoy.Config `yaml:",inline"`

	// DrainTimeout is how long a stream is waited for after the service was
	// told to stop: its next message ends it, so that nothing is under way then.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	// MaxNodes bounds how many Envoys have a metric of their own; the others
	// share the name "other".
	MaxNodes int `yaml:"max_nodes"`
}

// DefaultConfig is what is used where nothing is configured.
func DefaultConfig() Config {
	return Config{Config: envoy.DefaultConfig(), DrainTimeout: 5 * time.Second, MaxNodes: 200}
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	if c.DrainTimeout < 0 {
		return fmt.Errorf("drain_timeout: %v is negative", c.DrainTimeout)
	}
	if c.MaxNodes < 0 {
		return fmt.Errorf("max_nodes: %d is negative", c.MaxNodes)
	}
	return nil
}

const (
	streamWindow     = 4 << 20
	connectionWindow = 16 << 20
	// maxMessage is well over what Envoy puts in one message: its buffer, 1 MiB
	// as we recommend, and the entry that filled it.
	maxMessage = 64 << 20
)

// ServerOptions are what the grpc server of this service wants: the codec, and
// windows that let an Envoy send on while a message is being published. They do
// no harm to other services on the same server. There is no maximal age of a
// connection on purpose: closing a stream loses what is on its way.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(Codec()),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ReadBufferSize(128 << 10),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}
