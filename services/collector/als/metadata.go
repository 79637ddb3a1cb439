package als

import (
	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/envoy"
)

// metadata reads the three namespaces of envoy.config.core.v3.Metadata that
// say who called. Of a token's payload only its issuer, client and subject are kept.
//
// It is a map of Struct, each a map of Value. A key that comes again replaces
// what it had; a value that comes again within one map entry is merged.
func metadata(b []byte, e *envoy.Entry) (bad string) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return fieldMetadata
		}
		b = b[n:]
		if f.key != 1<<3|bytes {
			continue
		}
		namespace, ok := mapKey(f.b)
		if !ok {
			return fieldMetadata
		}
		switch string(namespace) {
		case envoy.RateLimitNamespace:
			e.RateLimit = envoy.Metadata{}
			ok = mapValues(f.b, func(b []byte) bool { return answerStruct(b, &e.RateLimit) })
		case envoy.ExtAuthzNamespace:
			e.ExtAuthz = envoy.Metadata{}
			ok = mapValues(f.b, func(b []byte) bool { return answerStruct(b, &e.ExtAuthz) })
		case envoy.JWTNamespace:
			e.JWT = envoy.JWT{}
			ok = mapValues(f.b, func(b []byte) bool { return jwtStruct(b, &e.JWT) })
		}
		if !ok {
			return fieldMetadata
		}
	}
	return ""
}

const fieldMetadata = "metadata"

// mapValues calls read for each value of a map's entry.
func mapValues(b []byte, read func([]byte) bool) bool {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		if f.key == 2<<3|bytes && !read(f.b) {
			return false
		}
	}
	return true
}

// answerStruct reads the Struct that a quota or authorization service answered.
func answerStruct(b []byte, m *envoy.Metadata) bool {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		if f.key != 1<<3|bytes {
			continue
		}
		key, ok := mapKey(f.b)
		if !ok {
			return false
		}
		k, known := envoy.MetaByName(call.Alias(key))
		if !known {
			continue
		}
		if m[k], ok = stringValue(f.b); !ok {
			return false
		}
	}
	return true
}

// jwtStruct reads the Struct of the token filter: the payload is under a key
// that the configuration names, "payload" by custom.
func jwtStruct(b []byte, jwt *envoy.JWT) bool {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		if f.key != 1<<3|bytes {
			continue
		}
		key, ok := mapKey(f.b)
		if !ok {
			return false
		}
		if string(key) != "payload" {
			continue
		}
		*jwt = envoy.JWT{}
		if !mapValues(f.b, func(b []byte) bool { return payloadValue(b, jwt) }) {
			return false
		}
	}
	return true
}

// payloadValue reads a Value that should hold a Struct.
func payloadValue(b []byte, jwt *envoy.JWT) bool {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch f.key {
		case valueStruct:
			if !claims(f.b, jwt) {
				return false
			}
		case valueNull, valueNumber, valueString, valueBool, valueList:
			*jwt = envoy.JWT{}
		}
	}
	return true
}

func claims(b []byte, jwt *envoy.JWT) bool {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		if f.key != 1<<3|bytes {
			continue
		}
		key, ok := mapKey(f.b)
		if !ok {
			return false
		}
		var claim *string
		switch string(key) {
		case "iss":
			claim = &jwt.Issuer
		case "client_id":
			claim = &jwt.ClientID
		case "azp":
			claim = &jwt.AZP
		case "sub":
			claim = &jwt.Sub
		default:
			continue
		}
		if *claim, ok = stringValue(f.b); !ok {
			return false
		}
	}
	return true
}

// Keys of the members of google.protobuf.Value, of which a value has one.
const (
	valueNull   = 1<<3 | varint
	valueNumber = 2<<3 | fixed64
	valueString = 3<<3 | bytes
	valueBool   = 4<<3 | varint
	valueStruct = 5<<3 | bytes
	valueList   = 6<<3 | bytes
)

// stringValue reads the Value of a map's entry, "" when it is not a string.
func stringValue(entry []byte) (s string, ok bool) {
	for len(entry) > 0 {
		f, n := next(entry)
		if n < 0 {
			return "", false
		}
		entry = entry[n:]
		if f.key != 2<<3|bytes {
			continue
		}
		for b := f.b; len(b) > 0; {
			f, n := next(b)
			if n < 0 {
				return "", false
			}
			b = b[n:]
			switch f.key {
			case valueString:
				s = call.Alias(f.b)
			case valueNull, valueNumber, valueBool, valueStruct, valueList:
				s = ""
			}
		}
	}
	return s, true
}
