package rest

import (
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/tollway/tollway/services/platform/auth"
)

// memoryListener hands out connections that Credentials recognises. No connection
// of the network can be one.
type memoryListener struct{ net.Listener }

type memoryConn struct{ net.Conn }

// Accept waits for the gateway to dial.
func (l memoryListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return memoryConn{c}, nil
}

// Credentials are what the gRPC server behind a gateway needs: those of the
// network for the network, and auth.InProcess for the gateway, without TLS.
func Credentials(network credentials.TransportCredentials) credentials.TransportCredentials {
	return inProcess{network}
}

type inProcess struct {
	credentials.TransportCredentials
}

// ServerHandshake leaves the network's connections to the network's credentials.
func (c inProcess) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if m, ok := conn.(memoryConn); ok {
		return m, auth.InProcess{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
	}
	return c.TransportCredentials.ServerHandshake(conn)
}

// Clone copies.
func (c inProcess) Clone() credentials.TransportCredentials {
	return inProcess{c.TransportCredentials.Clone()}
}
