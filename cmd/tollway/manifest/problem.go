package manifest

import (
	"fmt"
	"strings"
)

// Position is a place in a file; a line of 0 is the whole file.
type Position struct {
	File         string
	Line, Column int
}

func (p Position) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Problem is one mistake.
type Problem struct {
	Position
	Text string
}

// maxShown is how many mistakes are worth reading at once.
const maxShown = 20

// Problems are all mistakes, in the order of the files.
type Problems []Problem

func (p Problems) Error() string {
	var b strings.Builder
	for i, one := range p {
		if i == maxShown {
			fmt.Fprintf(&b, "\nand %d more", len(p)-i)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s: %s", one.Position, one.Text)
	}
	return b.String()
}
