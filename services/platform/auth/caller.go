package auth

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// caller is what is known of a caller before anything is believed: where the
// request came from, and the names in a verified client certificate. For gRPC
// over the network that is in the peer; here is what the peer does not know.
type caller struct {
	address string
	names   []string
}

type callerKey struct{}

func withRemote(ctx context.Context, address string, names ...string) context.Context {
	return context.WithValue(ctx, callerKey{}, &caller{address: address, names: names})
}

func withHTTPCaller(r *http.Request) context.Context {
	return withRemote(r.Context(), r.RemoteAddr, certificateNames(r.TLS)...)
}

// InProcess marks a connection between two parts of one process. Who speaks on it
// is believed about whom it speaks for.
type InProcess struct{ credentials.CommonAuthInfo }

// AuthType is what gRPC calls it.
func (InProcess) AuthType() string { return "in-process" }

// These headers are believed on connections that are InProcess, and nowhere else.
const (
	addressHeader = "tollway-caller-address"
	nameHeader    = "tollway-caller-name"
)

// Forward is what must be sent along with a call that is made in-process for an
// HTTP request, next to its Authorization header: where the request came from,
// and the names of its client certificate.
func Forward(_ context.Context, r *http.Request) metadata.MD {
	md := metadata.Pairs(addressHeader, r.RemoteAddr)
	md.Append(nameHeader, certificateNames(r.TLS)...)
	return md
}

// withCaller reads what Forward has written.
func withCaller(ctx context.Context) context.Context {
	if !inProcess(ctx) {
		return ctx
	}
	address := ""
	if v := metadata.ValueFromIncomingContext(ctx, addressHeader); len(v) == 1 {
		address = v[0]
	}
	return withRemote(ctx, address, metadata.ValueFromIncomingContext(ctx, nameHeader)...)
}

func inProcess(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	_, ok = p.AuthInfo.(InProcess)
	return ok
}

// CertificateNames are the URIs and DNS names of the caller's client certificate,
// if it has one and an authority that is trusted here has signed it.
func CertificateNames(ctx context.Context) []string {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c.names
	}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			return certificateNames(&info.State)
		}
	}
	return nil
}

func certificateNames(state *tls.ConnectionState) []string {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	names := make([]string, 0, len(leaf.URIs)+len(leaf.DNSNames))
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	for _, name := range leaf.DNSNames {
		// An authority that does not look at DNS names must not sign URIs with them.
		if !strings.ContainsAny(name, ":/") {
			names = append(names, name)
		}
	}
	return names
}

// remote is the network that the caller is in: an IPv4 address, or the /64 that
// an IPv6 subscriber has at least, out of which he can take any address. It is
// invalid when it is not known.
func remote(ctx context.Context) netip.Prefix {
	address := ""
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		address = c.address
	} else if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		address = p.Addr.String()
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	network, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}
