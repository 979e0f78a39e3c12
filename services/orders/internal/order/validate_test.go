package order

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"roundtrip/internal/problem"
)

func TestValidatePlace(t *testing.T) {
	t.Parallel()
	most := Line{SKU: "a", Location: MainLocation, Quantity: MaxQuantity, UnitPrice: MaxUnitPrice}
	for name, test := range map[string]struct {
		change func(*Place)
		want   []string // the pointers of the errors
	}{
		"valid":                    {func(*Place) {}, nil},
		"no id":                    {func(p *Place) { p.ID = "" }, []string{"/id"}},
		"id with a slash":          {func(p *Place) { p.ID = "a/b" }, []string{"/id"}},
		"id with a newline":        {func(p *Place) { p.ID = "a\n" }, []string{"/id"}},
		"longest id":               {func(p *Place) { p.ID = strings.Repeat("x", 64) }, nil},
		"id too long":              {func(p *Place) { p.ID = strings.Repeat("x", 65) }, []string{"/id"}},
		"no customer":              {func(p *Place) { p.Customer = "" }, []string{"/customer"}},
		"longest customer":         {func(p *Place) { p.Customer = strings.Repeat("é", MaxCustomer) }, nil},
		"customer too long":        {func(p *Place) { p.Customer = strings.Repeat("é", MaxCustomer+1) }, []string{"/customer"}},
		"no currency":              {func(p *Place) { p.Currency = "" }, []string{"/currency"}},
		"currency in lower":        {func(p *Place) { p.Currency = "gbp" }, []string{"/currency"}},
		"currency of four letters": {func(p *Place) { p.Currency = "GBPX" }, []string{"/currency"}},
		"currency with a newline":  {func(p *Place) { p.Currency = "GBP\n" }, []string{"/currency"}},
		"no hold":                  {func(p *Place) { p.HoldSeconds = 0 }, []string{"/hold_seconds"}},
		"shortest hold":            {func(p *Place) { p.HoldSeconds = 1 }, nil},
		"longest hold":             {func(p *Place) { p.HoldSeconds = MaxHold }, nil},
		"hold too long":            {func(p *Place) { p.HoldSeconds = MaxHold + 1 }, []string{"/hold_seconds"}},
		"no lines":                 {func(p *Place) { p.Lines = nil }, []string{"/lines"}},
		"most lines":               {func(p *Place) { p.Lines = slices.Repeat(p.Lines[:1], MaxLines) }, nil},
		"too many lines":           {func(p *Place) { p.Lines = slices.Repeat(p.Lines[:1], MaxLines+1) }, []string{"/lines"}},
		"no sku":                   {func(p *Place) { p.Lines[1].SKU = "" }, []string{"/lines/1/sku"}},
		"sku with a space":         {func(p *Place) { p.Lines[0].SKU = "a b" }, []string{"/lines/0/sku"}},
		"no location":              {func(p *Place) { p.Lines[1].Location = "" }, []string{"/lines/1/location"}},
		"no quantity":              {func(p *Place) { p.Lines[0].Quantity = 0 }, []string{"/lines/0/quantity"}},
		"negative quantity":        {func(p *Place) { p.Lines[0].Quantity = -1 }, []string{"/lines/0/quantity"}},
		"most of one line":         {func(p *Place) { p.Lines = []Line{most} }, nil},
		"quantity too high":        {func(p *Place) { p.Lines[1].Quantity = MaxQuantity + 1 }, []string{"/lines/1/quantity"}},
		"free of charge":           {func(p *Place) { p.Lines[0].UnitPrice = 0 }, nil},
		"negative price":           {func(p *Place) { p.Lines[0].UnitPrice = -1 }, []string{"/lines/0/unit_price"}},
		"price too high":           {func(p *Place) { p.Lines[0].UnitPrice = MaxUnitPrice + 1 }, []string{"/lines/0/unit_price"}},
		"the same sku twice":       {func(p *Place) { p.Lines = append(p.Lines, p.Lines...) }, nil},
		"everything wrong": {func(p *Place) {
			*p = Place{ID: "?", Lines: []Line{{Quantity: 1}, {SKU: "a", Location: "b", Quantity: 1, UnitPrice: -5}}}
		}, []string{"/currency", "/customer", "/hold_seconds", "/id", "/lines/0/location", "/lines/0/sku", "/lines/1/unit_price"}},
		// 9 x 10^18 is below 2^63 - 1 = 9,223,372,036,854,775,807; a tenth line is
		// above it.
		"nine full lines": {func(p *Place) { p.Lines = slices.Repeat([]Line{most}, 9) }, nil},
		"ten full lines":  {func(p *Place) { p.Lines = slices.Repeat([]Line{most}, 10) }, []string{"/lines"}},
		// A sum above 2^64 would wrap around to a small number.
		"nineteen full lines": {func(p *Place) { p.Lines = slices.Repeat([]Line{most}, 19) }, []string{"/lines"}},
		"2,000 full lines":    {func(p *Place) { p.Lines = slices.Repeat([]Line{most}, MaxLines) }, []string{"/lines"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := placeCommand("order-1")
			p.Lines = slices.Clone(p.Lines)
			test.change(&p)
			checkPointers(t, p, test.want)
		})
	}
}

// The highest total is exactly the highest int64.
func TestTotalMayReachMaxInt64(t *testing.T) {
	t.Parallel()
	// 9 x 10^18 + 223,372 x 10^12 + 36,854,775,807 = 2^63 - 1.
	lines := slices.Repeat([]Line{{SKU: "a", Location: MainLocation, Quantity: MaxQuantity, UnitPrice: MaxUnitPrice}}, 9)
	lines = append(lines, Line{SKU: "a", Location: MainLocation, Quantity: 223_372, UnitPrice: MaxUnitPrice})
	lines = append(lines, Line{SKU: "a", Location: MainLocation, Quantity: 1, UnitPrice: 36_854_775_807})
	p := placeCommand("order-1")
	p.Lines = lines
	checkPointers(t, p, nil)
	if got := NewUnitOfWork(start, nil).Decide(p).Order.Total; got != math.MaxInt64 {
		t.Errorf("the total is %d, want %d", got, math.MaxInt64)
	}
	checkPointers(t, Amend{ID: "order-1", Lines: lines}, nil)

	over := slices.Clone(lines)
	over[len(over)-1].UnitPrice++
	p.Lines = over
	checkPointers(t, p, []string{"/lines"})
	checkPointers(t, Amend{ID: "order-1", Lines: over}, []string{"/lines"})
}

func TestValidateChanges(t *testing.T) {
	t.Parallel()
	bad := []Line{{SKU: "a", Location: MainLocation, Quantity: 0, UnitPrice: 1}}
	for _, test := range []struct {
		command Command
		want    []string
	}{
		{Amend{ID: "order-1", Lines: placedLines}, nil},
		{Amend{ID: "order-1"}, []string{"/lines"}},
		{Amend{ID: "../x", Lines: bad}, []string{"/id", "/lines/0/quantity"}},
		{Confirm{ID: "order-1"}, nil},
		{Confirm{}, []string{"/id"}},
		{Cancel{ID: "order-1"}, nil},
		{Cancel{ID: "order 1"}, []string{"/id"}},
	} {
		checkPointers(t, test.command, test.want)
	}
	// These commands come from inside the service, and have nothing to validate.
	for _, c := range []Command{RecordOutcome{}, GiveUp{}, Expire{}} {
		checkPointers(t, c, nil)
	}
}

func checkPointers(t *testing.T, c Command, want []string) {
	t.Helper()
	err := c.Validate()
	var got []string
	if err != nil {
		if problem.CodeOf(err) != problem.Invalid {
			t.Errorf("%T got %v, want invalid", c, err)
		}
		for _, e := range problem.From(err).Errors {
			got = append(got, e.Pointer)
			if e.Detail == "" {
				t.Errorf("%s has no detail", e.Pointer)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%T has errors at %v, want %v", c, got, want)
	}
}

// The fingerprint differs for every part of the content, and only for those.
func TestPlaceFingerprintCoversTheContent(t *testing.T) {
	t.Parallel()
	of := func(change func(*Place)) string {
		p := placeCommand("order-1")
		p.Lines = slices.Clone(p.Lines)
		change(&p)
		return NewUnitOfWork(start, nil).Decide(p).Order.Fingerprint
	}
	same := of(func(*Place) {})
	if got := of(func(p *Place) { p.ID = "order-2" }); got != same {
		t.Error("the id is part of the content")
	}
	seen := map[string]string{same: "the first"}
	for i, change := range []func(*Place){
		func(p *Place) { p.Customer = "Bob" },
		func(p *Place) { p.Currency = "EUR" },
		func(p *Place) { p.HoldSeconds++ },
		func(p *Place) { p.Lines[0].SKU = "x" },
		func(p *Place) { p.Lines[0].Location = "x" },
		func(p *Place) { p.Lines[0].Quantity++ },
		func(p *Place) { p.Lines[0].UnitPrice++ },
		func(p *Place) { p.Lines = p.Lines[:1] },
		func(p *Place) { p.Lines = append(p.Lines, p.Lines[0]) },
		func(p *Place) { slices.Reverse(p.Lines) },
	} {
		got := of(change)
		if other, ok := seen[got]; ok {
			t.Errorf("change %d has the fingerprint of %s", i, other)
		}
		seen[got] = fmt.Sprint("change ", i)
	}
}
