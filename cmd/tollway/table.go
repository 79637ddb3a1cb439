package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textTable aligns cells in columns.
type textTable struct {
	right []bool // columns of numbers
	rows  [][]string
}

func (t *textTable) add(cells []string) { t.rows = append(t.rows, cells) }

func (t *textTable) print(out io.Writer) error {
	widths := make([]int, len(t.right))
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i > 0 {
				line.WriteString("  ")
			}
			if t.right[i] {
				line.WriteString(space + c)
			} else {
				line.WriteString(c + space)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// cell formats a value of an answer for people.
func cell(value any, unit string) string {
	switch v := value.(type) {
	case nil:
		return "-"
	case string:
		return printable(v)
	case json.Number:
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return quantity(f, unit)
	}
	return fmt.Sprint(value)
}

// printable shows what would otherwise steer the terminal: values come from
// callers of the APIs.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// quantity formats a number with its unit.
func quantity(f float64, unit string) string {
	switch unit {
	case "ratio":
		return strconv.FormatFloat(f*100, 'f', 2, 64) + " %"
	case "bytes":
		return scaled(f, []string{" B", " kB", " MB", " GB", " TB", " PB"})
	case "ms":
		return milliseconds(f)
	case "calls/s":
		return scaled(f, []string{"/s", "k/s", "M/s", "G/s"})
	}
	return scaled(f, []string{"", "k", "M", "G", "T"})
}

// scaled prints three digits or a whole number below 1,000, with the step of a
// thousand that keeps it short.
func scaled(f float64, suffixes []string) string {
	step := 0
	for step < len(suffixes)-1 && math.Abs(f) >= 999.5 {
		f /= 1000
		step++
	}
	if step == 0 && f == math.Trunc(f) {
		return strconv.FormatFloat(f, 'f', 0, 64) + suffixes[0]
	}
	return threeDigits(f) + suffixes[step]
}

func threeDigits(f float64) string {
	switch abs := math.Abs(f); {
	case abs >= 99.95:
		return strconv.FormatFloat(f, 'f', 0, 64)
	case abs >= 9.995:
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return strconv.FormatFloat(f, 'f', 2, 64)
}

func milliseconds(f float64) string {
	switch {
	case f < 1:
		return strconv.FormatFloat(f*1000, 'f', 0, 64) + " µs"
	case f < 1000:
		return threeDigits(f) + " ms"
	}
	return threeDigits(f/1000) + " s"
}
