package call

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/apache/arrow/go/v15/arrow/decimal128"
)

// Measures are Decimal(38,9): 29 digits before the point, 9 after it.
const (
	DecimalPrecision = 38
	DecimalScale     = 9
)

// ParseDecimal reads a decimal number such as "12", "-0.5" or "1.25e3"
// exactly. A number that does not fit Decimal(38,9) without rounding is an
// error.
func ParseDecimal(s string) (decimal128.Num, error) {
	if len(s) == 0 || len(s) > 64 || strings.ContainsAny(s, "/_xXpPoObBiInN") {
		return decimal128.Num{}, fmt.Errorf("%q is not a decimal number", Clean(s, 64))
	}
	// Exponents are bounded before big.Rat sees them: 1e999999999 would take
	// all memory.
	if i := strings.IndexAny(s, "eE"); i >= 0 && len(s)-i > 4 {
		return decimal128.Num{}, fmt.Errorf("%q has too large an exponent", s)
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return decimal128.Num{}, fmt.Errorf("%q is not a decimal number", s)
	}
	r.Mul(r, scale)
	if !r.IsInt() {
		return decimal128.Num{}, fmt.Errorf("%q has more than %d digits after the point", s, DecimalScale)
	}
	if new(big.Int).Abs(r.Num()).Cmp(limit) >= 0 {
		return decimal128.Num{}, fmt.Errorf("%q has more than %d digits before the point", s, DecimalPrecision-DecimalScale)
	}
	return decimal128.FromBigInt(r.Num()), nil
}

// FormatDecimal prints a measure without trailing zeros.
func FormatDecimal(n decimal128.Num) string {
	s := n.ToString(DecimalScale)
	s = strings.TrimRight(s, "0")
	return strings.TrimSuffix(s, ".")
}

var (
	scale = new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(DecimalScale), nil))
	limit = new(big.Int).Exp(big.NewInt(10), big.NewInt(DecimalPrecision), nil)
)
