package scan

import (
	"errors"
	"math"
	"net/netip"

	"github.com/apache/arrow/go/v15/arrow/decimal128"

	"github.com/tollway/tollway/pipelines/call"
)

// What can be wrong with a value. The texts complete "<field>: ".
var (
	ErrTime       = errors.New("not an RFC 3339 time")
	ErrNotInteger = errors.New("not a whole number")
	ErrNegative   = errors.New("negative")
	ErrTooLarge   = errors.New("too large")
	ErrDecimal    = errors.New("not a decimal number of at most 29 digits before and 9 after the point")
	ErrAddress    = errors.New("not an IP address")
)

// Time reads an RFC 3339 time as microseconds since the Unix epoch. What is
// finer is cut off.
func Time(s string) (int64, error) {
	// 2006-01-02T15:04:05Z
	if len(s) < 20 || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' || s[13] != ':' || s[16] != ':' {
		return 0, ErrTime
	}
	year, ok1 := digits2(s[0:2])
	rest, ok2 := digits2(s[2:4])
	month, ok3 := digits2(s[5:7])
	day, ok4 := digits2(s[8:10])
	hour, ok5 := digits2(s[11:13])
	minute, ok6 := digits2(s[14:16])
	second, ok7 := digits2(s[17:19])
	year = year*100 + rest
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7) ||
		month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, ErrTime
	}
	micros, s, ok := fraction(s[19:])
	if !ok {
		return 0, ErrTime
	}
	offset, ok := zone(s)
	if !ok {
		return 0, ErrTime
	}
	seconds := unixDays(year, month, day)*86400 + int64(hour*3600+minute*60+second) - int64(offset)
	return seconds*1_000_000 + micros, nil
}

func digits2(s string) (int, bool) {
	a, b := s[0]-'0', s[1]-'0'
	return int(a)*10 + int(b), a <= 9 && b <= 9
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// unixDays counts days from 1970-01-01 in the proleptic Gregorian calendar. The
// year is taken to begin in March, so that the leap day is its last.
func unixDays(year, month, day int) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	yearDay := (153*(month-3)+2)/5 + day - 1
	if year < 0 { // January and February of the year 0
		return int64(-366+yearDay) - 719468
	}
	return int64(365*year+year/4-year/100+year/400+yearDay) - 719468
}

func fraction(s string) (micros int64, rest string, ok bool) {
	if len(s) == 0 || s[0] != '.' {
		return 0, s, true
	}
	unit, i := int64(100_000), 1
	for ; i < len(s) && s[i]-'0' <= 9; i++ {
		micros += int64(s[i]-'0') * unit
		unit /= 10
	}
	return micros, s[i:], i > 1
}

// zone reads Z or ±hh:mm in seconds east of UTC.
func zone(s string) (int, bool) {
	if len(s) == 1 {
		return 0, s[0]|0x20 == 'z'
	}
	if len(s) != 6 || (s[0] != '+' && s[0] != '-') || s[3] != ':' {
		return 0, false
	}
	hour, ok1 := digits2(s[1:3])
	minute, ok2 := digits2(s[4:6])
	if !ok1 || !ok2 || hour > 23 || minute > 59 {
		return 0, false
	}
	offset := hour*3600 + minute*60
	if s[0] == '-' {
		offset = -offset
	}
	return offset, true
}

// Unsigned reads a whole number from 0 to max.
func Unsigned(s string, max int64) (int64, error) {
	if len(s) == 0 {
		return 0, ErrNotInteger
	}
	var n uint64
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			if i == 0 && s[0] == '-' && len(s) > 1 {
				return 0, ErrNegative
			}
			return 0, ErrNotInteger
		}
		if n > (math.MaxInt64-9)/10 {
			return 0, ErrTooLarge
		}
		n = n*10 + uint64(c)
	}
	if n > uint64(max) {
		return 0, ErrTooLarge
	}
	return int64(n), nil
}

// Decimal reads a measure: 12, "0.000125", 1e3. It must not be negative.
func Decimal(s string) (decimal128.Num, error) {
	if len(s) > 0 && s[0] == '-' {
		return decimal128.Num{}, ErrNegative
	}
	if n, ok := shortDecimal(s); ok {
		return n, nil
	}
	n, err := call.ParseDecimal(s)
	if err != nil {
		return decimal128.Num{}, ErrDecimal
	}
	return n, nil
}

// shortDecimal reads what fits 64 bits once scaled: at most nine digits on
// either side of the point.
func shortDecimal(s string) (decimal128.Num, bool) {
	var n int64
	point, i := -1, 0
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case c-'0' <= 9:
			n = n*10 + int64(c-'0')
		case c == '.' && point < 0 && i > 0:
			point = i
		default:
			return decimal128.Num{}, false
		}
		if i > 18 {
			return decimal128.Num{}, false
		}
	}
	whole, places := i, 0
	if point >= 0 {
		whole, places = point, i-point-1
		if places == 0 {
			return decimal128.Num{}, false
		}
	}
	if whole == 0 || whole > 9 || places > call.DecimalScale {
		return decimal128.Num{}, false
	}
	for range call.DecimalScale - places {
		n *= 10
	}
	return decimal128.FromI64(n), true
}

// Network is how much of a client address is kept.
type Network struct {
	V4Bits int `yaml:"v4_bits"` // 32 keeps all, 0 keeps nothing
	V6Bits int `yaml:"v6_bits"` // 128 keeps all, 0 keeps nothing
}

// DefaultNetwork keeps what tells regions and networks apart, not people.
func DefaultNetwork() Network { return Network{V4Bits: 24, V6Bits: 48} }

// Validate names the field that cannot work.
func (n Network) Validate() error {
	if n.V4Bits < 0 || n.V4Bits > 32 {
		return errors.New("v4_bits: must be between 0 and 32")
	}
	if n.V6Bits < 0 || n.V6Bits > 128 {
		return errors.New("v6_bits: must be between 0 and 128")
	}
	return nil
}

// Append writes the kept part of an address, which may carry a port, to dst.
func (n Network) Append(dst []byte, address string) ([]byte, error) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		withPort, err := netip.ParseAddrPort(address)
		if err != nil {
			return dst, ErrAddress
		}
		addr = withPort.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := n.V6Bits
	if addr.Is4() {
		bits = n.V4Bits
	}
	if bits == 0 {
		return dst, nil
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return dst, ErrAddress
	}
	return prefix.Addr().AppendTo(dst), nil
}

// ClientIP is Append into the scanner's own memory, valid until Forget.
func (s *Scanner) ClientIP(n Network, address string) (string, error) {
	from := len(s.scratch)
	out, err := n.Append(s.scratch, address)
	if err != nil {
		return "", err
	}
	s.scratch = out
	return call.Alias(out[from:]), nil
}
