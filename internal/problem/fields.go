package problem

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// namePattern matches ids, SKUs and locations, on every wire.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// MaxFields is the largest number of errors that one answer lists. It is enough to
// correct a request, and so small that a request can't cause an answer much longer than
// itself.
const MaxFields = 20

// Fields collects the errors of a request's fields, so that the sender sees them all at
// once, up to [MaxFields]. The zero value is ready for use.
type Fields struct {
	errors []FieldError
}

// Add records that the field at pointer is wrong.
func (f *Fields) Add(pointer, format string, args ...any) {
	if len(f.errors) == MaxFields {
		return
	}
	f.errors = append(f.errors, FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
}

// Name checks an id, a SKU or a location.
func (f *Fields) Name(pointer, value string) {
	if !namePattern.MatchString(value) {
		f.Add(pointer, "must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")
	}
}

// Between checks that least <= value <= most.
func (f *Fields) Between(pointer string, value, least, most int64) {
	if value < least || value > most {
		f.Add(pointer, "must be between %d and %d", least, most)
	}
}

// Err returns an invalid problem with all recorded errors; nil if there are none.
func (f *Fields) Err() error {
	if len(f.errors) == 0 {
		return nil
	}
	f.sort()
	return &Problem{Code: Invalid, Detail: "The request has fields that are not valid.", Errors: f.errors}
}

func (f *Fields) sort() {
	slices.SortStableFunc(f.errors, func(a, b FieldError) int { return strings.Compare(a.Pointer, b.Pointer) })
}

// Relocate changes the pointers of an invalid problem's fields. The domain names a
// field, such as /id. An adapter knows where its wire carries that field.
func Relocate(err error, locate func(pointer string) string) error {
	var p *Problem
	if !errors.As(err, &p) || len(p.Errors) == 0 {
		return err
	}
	relocated := *p
	f := Fields{errors: slices.Clone(p.Errors)}
	for i, e := range f.errors {
		f.errors[i].Pointer = locate(e.Pointer)
	}
	f.sort()
	relocated.Errors = f.errors
	return &relocated
}
