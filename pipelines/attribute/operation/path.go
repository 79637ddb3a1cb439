package operation

const upperHex = "0123456789ABCDEF"

// appendCanonical appends a path with the escapes of unreserved characters
// resolved and all other escapes in upper case. What is no escape stays.
func appendCanonical(dst []byte, path string) []byte {
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			dst = append(dst, path[i])
			continue
		}
		high, low := unhex(path[i+1]), unhex(path[i+2])
		if high < 0 || low < 0 {
			dst = append(dst, '%')
			continue
		}
		if c := byte(high<<4 | low); unreserved(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[high], upperHex[low])
		}
		i += 2
	}
	return dst
}

// literal is the canonical form of a text in a template, where characters that
// no path can hold are written as they are.
func literal(text string) string {
	var dst []byte
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return string(appendCanonical(nil, string(dst)))
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// unreserved characters mean the same with and without an escape (RFC 3986, 2.3).
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}
