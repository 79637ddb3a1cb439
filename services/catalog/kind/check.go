package kind

import (
	"fmt"
	"math/big"
	"net/mail"
	"net/url"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // time zones do not depend on the machine
	"unicode/utf8"

	"github.com/shopspring/decimal"
	"golang.org/x/text/currency"
	"golang.org/x/text/language"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// Limits of texts, in characters, and of lists.
const (
	maxDisplayName = 200
	maxDescription = 4000
	maxText        = 200
	maxLabels      = 64
	maxLabelValue  = 256
	maxEmail       = 254
	maxLines       = 6
	maxHosts       = 100
	maxPath        = 1024
	maxMembers     = 1000 // operations or accounts that a product names
	maxCharges     = 100
	maxTiers       = 100
	maxQuotas      = 100
	maxPhases      = 1000
	maxFilter      = 4096
	maxScopes      = 50
	maxURI         = 2048
)

// MaxReason bounds why a subscription was rejected, suspended or ended.
const MaxReason = 1000

func length(v *Violations, field, text string, limit int) {
	if utf8.RuneCountInString(text) > limit {
		v.Add(field, "is longer than %d characters", limit)
	}
}

func required(v *Violations, field, text string, limit int) {
	if strings.TrimSpace(text) == "" {
		v.Add(field, "is required")
	}
	length(v, field, text, limit)
}

func count(v *Violations, field string, n, limit int) {
	if n > limit {
		v.Add(field, "has %d entries, at most %d are allowed", n, limit)
	}
}

// distinct refuses a list that is too long or names something twice.
func distinct(v *Violations, field string, list []string, limit int) {
	count(v, field, len(list), limit)
	seen := make(map[string]bool, len(list))
	for i, s := range list {
		if s == "" {
			v.Add(index(field, i), "is empty")
		}
		if seen[s] {
			v.Add(index(field, i), "%q is there twice", s)
		}
		seen[s] = true
	}
}

func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

var labelKey = regexp.MustCompile(`^[a-z0-9]([a-z0-9_./-]{0,61}[a-z0-9])?$`)

func labels(all map[string]string, v *Violations) {
	count(v, "labels", len(all), maxLabels)
	for key, value := range all {
		if !labelKey.MatchString(key) {
			v.Add("labels", "the key %q must be lower-case letters, digits, hyphens, dots, slashes and underscores, at most 63", key)
		}
		if utf8.RuneCountInString(value) > maxLabelValue || hasControl(value, false) {
			v.Add("labels", "the value of %q is longer than %d characters or has control characters", key, maxLabelValue)
		}
	}
}

func email(v *Violations, field, text string) {
	if text == "" {
		return
	}
	a, err := mail.ParseAddress(text)
	if err != nil || a.Address != text || len(text) > maxEmail {
		v.Add(field, "%q is no e-mail address", text)
	}
}

func currencyCode(v *Violations, field, text string) {
	if text == "" {
		return
	}
	if u, err := currency.ParseISO(text); err != nil || u.String() != text || text == "XXX" || text == "XTS" {
		v.Add(field, "%q is no currency of ISO 4217, such as EUR", text)
	}
}

// currencyDigits is how many decimals amounts of a currency have.
func currencyDigits(code string) (int32, bool) {
	u, err := currency.ParseISO(code)
	if err != nil {
		return 0, false
	}
	scale, _ := currency.Standard.Rounding(u)
	return int32(scale), true
}

func timeZone(v *Violations, field, text string) {
	if text == "" {
		return
	}
	if _, err := time.LoadLocation(text); err != nil || text == "Local" {
		v.Add(field, "%q is no time zone of the IANA database, such as Europe/Berlin", text)
	}
}

func country(v *Violations, field, text string) {
	if text == "" {
		return
	}
	if r, err := language.ParseRegion(text); err != nil || len(text) != 2 || r.Canonicalize().String() != text || !r.IsCountry() {
		v.Add(field, "%q is no country of ISO 3166-1, such as DE", text)
	}
}

func address(v *Violations, field string, a *catalogv1.PostalAddress) {
	if a == nil {
		return
	}
	count(v, field+".lines", len(a.GetLines()), maxLines)
	for i, line := range a.GetLines() {
		required(v, index(field+".lines", i), line, maxText)
	}
	length(v, field+".city", a.GetCity(), maxText)
	length(v, field+".postal_code", a.GetPostalCode(), 32)
	length(v, field+".region", a.GetRegion(), maxText)
	country(v, field+".country", a.GetCountry())
}

var ibanShape = regexp.MustCompile(`^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$`)

// iban checks the shape and the check digits of ISO 13616: with the first four
// characters moved to the end and letters read as 10 to 35, the remainder by 97
// is 1.
func iban(v *Violations, field, text string) {
	if text == "" {
		return
	}
	ok := ibanShape.MatchString(text)
	if ok {
		var digits strings.Builder
		for _, c := range text[4:] + text[:4] {
			if c >= 'A' {
				fmt.Fprint(&digits, int(c-'A')+10)
			} else {
				digits.WriteRune(c)
			}
		}
		n, _ := new(big.Int).SetString(digits.String(), 10)
		ok = new(big.Int).Mod(n, big.NewInt(97)).Int64() == 1
	}
	if !ok {
		v.Add(field, "is no IBAN: its check digits do not fit")
	}
}

var decimalShape = regexp.MustCompile(`^[0-9]{1,18}(\.[0-9]{1,12})?$`)

// number reads a decimal that is not negative; an empty text is zero.
func number(v *Violations, field, text string) (decimal.Decimal, bool) {
	if text == "" {
		return decimal.Decimal{}, true
	}
	if !decimalShape.MatchString(text) {
		v.Add(field, "%q is no decimal such as 25.00: at most 18 digits before and 12 after the point", text)
		return decimal.Decimal{}, false
	}
	d, err := decimal.NewFromString(text)
	return d, err == nil
}

// amount is a number with no more decimals than the currency has.
func amount(v *Violations, field, text, code string) {
	d, ok := number(v, field, text)
	digits, known := currencyDigits(code)
	if ok && known && !d.Equal(d.Round(digits)) {
		v.Add(field, "%q has more than the %d decimals of %s", text, digits, code)
	}
}

// moment refuses times that the ledger cannot keep.
func moment(v *Violations, field string, t *timestamppb.Timestamp) {
	if t == nil {
		return
	}
	if t.CheckValid() != nil || t.AsTime().Year() < 1970 || t.AsTime().Year() > 9000 {
		v.Add(field, "is no time between the years 1970 and 9000")
	}
}

// microseconds cuts a time to what the ledger keeps.
func microseconds(t *timestamppb.Timestamp) {
	if t != nil {
		t.Nanos -= t.Nanos % 1000
	}
}

func uri(v *Violations, field, text string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || len(text) > maxURI || strings.ContainsAny(text, " \t\r\n") {
		v.Add(field, "%q is no URI", text)
	}
}

// refs makes a reference of each name in a list.
func refs(field string, list []string, kinds ...*Kind) []Reference {
	out := make([]Reference, len(list))
	for i, s := range list {
		out[i] = Reference{Field: index(field, i), Target: s, Kinds: kinds}
	}
	return out
}

// MaySee tells whether an account may see a product by the product's own word.
func MaySee(p *catalogv1.Product, account string) bool {
	switch p.GetVisibility() {
	case catalogv1.Visibility_PUBLIC:
		return true
	case catalogv1.Visibility_RESTRICTED:
		for _, a := range p.GetVisibleTo() {
			if a == account {
				return true
			}
		}
	}
	return false
}
