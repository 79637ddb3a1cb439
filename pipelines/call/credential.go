package call

import (
	"crypto/sha256"
	"encoding/hex"
)

// The credential column holds the catalog's id of a credential, account/app/id,
// once a call is attributed. Before that, and where the catalog does not know
// the credential, it holds what the gateway verified, in one of the forms
// below. The forms cannot be mistaken for each other or for an id, which has no
// colon and slashes. The text of a token or a key is never in it: of an API key
// that a source sent in clear, the beginning is kept that may be shown.

// AppendClient appends the column's text for a client of an authorization
// server.
func AppendClient(dst []byte, issuer, client string) []byte {
	return appendCredential(dst, "client:", issuer, client)
}

// AppendSubject appends the column's text for a subject of a token issuer.
func AppendSubject(dst []byte, issuer, subject string) []byte {
	return appendCredential(dst, "subject:", issuer, subject)
}

// AppendCertificate appends the column's text for a client certificate with
// this URI among its names.
func AppendCertificate(dst []byte, uri string) []byte {
	return appendCredential(dst, "certificate:", uri, "")
}

// An API key is keyStart, 8 characters that tell keys apart, and a secret.
const (
	keyStart = "tk_"
	keyShown = len(keyStart) + 8
)

// ShownKey is what the column holds of an API key: its beginning, by which the
// catalog knows it. Anything else is returned as it is.
func ShownKey(credential string) string {
	if len(credential) > keyShown && credential[:len(keyStart)] == keyStart {
		return credential[:keyShown]
	}
	return credential
}

// appendCredential writes kind, a and b. A text that the column would cut, or
// in which a and b could be told apart in two ways, is replaced by its hash:
// two credentials must not become one.
func appendCredential(dst []byte, kind, a, b string) []byte {
	start := len(dst)
	dst = append(dst, kind...)
	dst = append(dst, a...)
	if b != "" {
		dst = append(dst, '#')
		dst = append(dst, b...)
	}
	if len(dst)-start <= MaxString && !hasFragment(a, b) {
		return dst
	}
	h := sha256.New()
	h.Write([]byte(a))
	h.Write([]byte{0xff}) // in no UTF-8 text
	h.Write([]byte(b))
	var sum [sha256.Size]byte
	dst = append(dst[:start], kind...)
	dst = append(dst, "sha256:"...)
	return hex.AppendEncode(dst, h.Sum(sum[:0]))
}

// hasFragment tells whether a, before the separator, has one itself.
func hasFragment(a, b string) bool {
	if b == "" {
		return false
	}
	for i := range len(a) {
		if a[i] == '#' {
			return true
		}
	}
	return false
}
