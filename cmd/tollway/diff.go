package main

import (
	"fmt"
	"slices"
	"strings"
)

// diffContext is how many equal lines are shown around a change.
const diffContext = 3

// diffLine is a line of both texts (' '), of the first ('-') or the second ('+').
type diffLine struct {
	sign byte
	text string
}

// unifiedDiff shows what turns one text into another, as diff -u does. An empty
// text is a file that is not there.
func unifiedDiff(name, before, after string) string {
	lines := diffLines(splitLines(before), splitLines(after))
	var b strings.Builder
	from, to := name+" (now)", name+" (files)"
	if before == "" {
		from = "/dev/null"
	}
	if after == "" {
		to = "/dev/null"
	}
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", from, to)
	left, right := 1, 1 // the numbers of the line at i
	for i := 0; i < len(lines); {
		start, end := nextHunk(lines, i)
		left, right = left+start-i, right+start-i // lines between hunks are equal
		nLeft, nRight := 0, 0
		for _, l := range lines[start:end] {
			if l.sign != '+' {
				nLeft++
			}
			if l.sign != '-' {
				nRight++
			}
		}
		if start < end {
			fmt.Fprintf(&b, "@@ -%s +%s @@\n", hunkRange(left, nLeft), hunkRange(right, nRight))
		}
		for _, l := range lines[start:end] {
			fmt.Fprintf(&b, "%c%s\n", l.sign, printable(l.text))
		}
		left, right = left+nLeft, right+nRight
		i = end
	}
	return b.String()
}

// hunkRange counts from the line before where there is none.
func hunkRange(first, n int) string {
	if n == 0 {
		first--
	}
	return fmt.Sprintf("%d,%d", first, n)
}

// nextHunk finds the next changes from line i on, with their context; both
// ends are the end of the text where there are none.
func nextHunk(lines []diffLine, i int) (start, end int) {
	first := i
	for first < len(lines) && lines[first].sign == ' ' {
		first++
	}
	if first == len(lines) {
		return first, first
	}
	last := first
	for j := first; j < len(lines) && j <= last+2*diffContext+1; j++ {
		if lines[j].sign != ' ' {
			last = j
		}
	}
	return max(i, first-diffContext), min(len(lines), last+1+diffContext)
}

func splitLines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// maxDiffPairs bounds the table of all pairs of lines, to some 30 MB.
const maxDiffPairs = 4 << 20

// diffLines keeps what both texts begin and end with, and between that a longest
// common subsequence; where too much differs, nothing of it.
func diffLines(a, b []string) []diffLine {
	var begin, end []diffLine
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		begin = append(begin, diffLine{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		end = append(end, diffLine{' ', a[len(a)-1]})
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	slices.Reverse(end)
	if len(a)*len(b) > maxDiffPairs {
		for _, text := range a {
			begin = append(begin, diffLine{'-', text})
		}
		for _, text := range b {
			begin = append(begin, diffLine{'+', text})
		}
		return append(begin, end...)
	}
	return slices.Concat(begin, commonLines(a, b), end)
}

func commonLines(a, b []string) []diffLine {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var lines []diffLine
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, diffLine{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, diffLine{'-', a[i]})
			i++
		default:
			lines = append(lines, diffLine{'+', b[j]})
			j++
		}
	}
	return lines
}
