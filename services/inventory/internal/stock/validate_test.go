package stock_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

// wantPointers compares the pointers of an invalid problem, in order. No pointers
// means no problem.
func wantPointers(t *testing.T, err error, want []string) {
	t.Helper()
	if len(want) == 0 {
		if err != nil {
			t.Errorf("got %v, want no error", err)
		}
		return
	}
	wantCode(t, err, problem.Invalid)
	if err == nil {
		return
	}
	var got []string
	for _, f := range problem.From(err).Errors {
		got = append(got, f.Pointer)
		if f.Detail == "" {
			t.Errorf("%s has no detail", f.Pointer)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the errors point at %q, want %q", got, want)
	}
}

func TestValidatePut(t *testing.T) {
	t.Parallel()
	lines := func(n int) []stock.Line {
		return slices.Repeat([]stock.Line{line("a", 1)}, n)
	}
	with := func(change func(*stock.Put)) stock.Put {
		put := hold("order-1", 1, line("a", 1), line("b", 2))
		change(&put)
		return put
	}
	for name, test := range map[string]struct {
		put  stock.Put
		want []string
	}{
		"held":                            {hold("order-1", 1, line("a", 1)), nil},
		"committed":                       {commit("order-1", 1), nil},
		"released":                        {release("order-1", 1), nil},
		"the longest id":                  {hold(strings.Repeat("x", 64), 1, line("a", 1)), nil},
		"every allowed kind of character": {hold("Az09._-", 1, line("Az09._-", 1)), nil},
		"no id":                           {hold("", 1, line("a", 1)), []string{"/id"}},
		"id too long":                     {hold(strings.Repeat("x", 65), 1, line("a", 1)), []string{"/id"}},
		"id with a slash":                 {commit("a/b", 1), []string{"/id"}},
		"id with a line break":            {release("a\n", 1), []string{"/id"}},
		"id with another script":          {release("ä", 1), []string{"/id"}},
		"id with NUL":                     {release("a\x00", 1), []string{"/id"}},
		"seq 0":                           {hold("order-1", 0, line("a", 1)), []string{"/seq"}},
		"negative seq":                    {commit("order-1", -1), []string{"/seq"}},
		"seq beyond JSON's numbers":       {commit("order-1", math.MaxInt64), []string{"/seq"}},
		"no state":                        {with(func(p *stock.Put) { p.State = "" }), []string{"/state"}},
		"state none":                      {with(func(p *stock.Put) { p.State = stock.None }), []string{"/state"}},
		"state expired":                   {with(func(p *stock.Put) { p.State = stock.Expired }), []string{"/state"}},
		"state in capitals":               {with(func(p *stock.Put) { p.State = "Held" }), []string{"/state"}},
		"no hold seconds":                 {with(func(p *stock.Put) { p.HoldSeconds = 0 }), []string{"/hold_seconds"}},
		"negative hold seconds":           {with(func(p *stock.Put) { p.HoldSeconds = -1 }), []string{"/hold_seconds"}},
		"one hold second":                 {with(func(p *stock.Put) { p.HoldSeconds = 1 }), nil},
		"30 days":                         {with(func(p *stock.Put) { p.HoldSeconds = 2_592_000 }), nil},
		"more than 30 days":               {with(func(p *stock.Put) { p.HoldSeconds = 2_592_001 }), []string{"/hold_seconds"}},
		"overflowing hold seconds":        {with(func(p *stock.Put) { p.HoldSeconds = math.MaxInt64 }), []string{"/hold_seconds"}},
		"no lines":                        {hold("order-1", 1), []string{"/lines"}},
		"2000 lines":                      {hold("order-1", 1, lines(2000)...), nil},
		"2001 lines":                      {hold("order-1", 1, lines(2001)...), []string{"/lines"}},
		"quantity 0":                      {hold("order-1", 1, line("a", 1), line("b", 0)), []string{"/lines/1/quantity"}},
		"negative quantity":               {hold("order-1", 1, line("a", -1)), []string{"/lines/0/quantity"}},
		"the highest quantity":            {hold("order-1", 1, line("a", 1_000_000)), nil},
		"quantity too high":               {hold("order-1", 1, line("a", 1_000_001)), []string{"/lines/0/quantity"}},
		"overflowing quantity":            {hold("order-1", 1, line("a", math.MaxInt64), line("a", math.MaxInt64)), []string{"/lines/0/quantity", "/lines/1/quantity"}},
		"no sku":                          {hold("order-1", 1, line("", 1)), []string{"/lines/0/sku"}},
		"sku with a space":                {hold("order-1", 1, line("a b", 1)), []string{"/lines/0/sku"}},
		"no location":                     {hold("order-1", 1, stock.Line{SKU: "a", Quantity: 1}), []string{"/lines/0/location"}},
		"location too long":               {hold("order-1", 1, stock.Line{SKU: "a", Location: strings.Repeat("x", 65), Quantity: 1}), []string{"/lines/0/location"}},
		"committed with lines":            {stock.Put{ID: "order-1", Seq: 1, State: stock.Committed, Lines: lines(1)}, []string{"/lines"}},
		"released with a hold":            {stock.Put{ID: "order-1", Seq: 1, State: stock.Released, HoldSeconds: 900}, []string{"/hold_seconds"}},
		"released with both":              {stock.Put{ID: "order-1", Seq: 1, State: stock.Released, Lines: lines(1), HoldSeconds: 1}, []string{"/hold_seconds", "/lines"}},
		"everything wrong": {
			stock.Put{ID: "?", State: stock.Held, Lines: []stock.Line{{}, line("a", 1), {SKU: "!", Location: "main", Quantity: 1}}},
			[]string{"/hold_seconds", "/id", "/lines/0/location", "/lines/0/quantity", "/lines/0/sku", "/lines/2/sku", "/seq"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantPointers(t, test.put.Validate(), test.want)
		})
	}
}

func TestValidateAdjust(t *testing.T) {
	t.Parallel()
	with := func(change func(*stock.Adjust)) stock.Adjust {
		a := adjustBy("adj", "a", 1)
		change(&a)
		return a
	}
	for name, test := range map[string]struct {
		adjust stock.Adjust
		want   []string
	}{
		"delta":                     {adjustBy("adj", "a", -1), nil},
		"on hand":                   {adjustTo("adj", "a", 0), nil},
		"expecting nothing":         {expecting(adjustTo("adj", "a", 1), 0), nil},
		"the largest delta":         {adjustBy("adj", "a", -1_000_000_000_000), nil},
		"no id":                     {adjustBy("", "a", 1), []string{"/id"}},
		"no sku":                    {adjustBy("adj", "", 1), []string{"/sku"}},
		"no location":               {with(func(a *stock.Adjust) { a.Location = "" }), []string{"/location"}},
		"neither delta nor on hand": {with(func(a *stock.Adjust) { a.Delta = nil }), []string{""}},
		"both delta and on hand":    {with(func(a *stock.Adjust) { a.OnHand = a.Delta }), []string{""}},
		"delta 0":                   {adjustBy("adj", "a", 0), []string{"/delta"}},
		"delta too high":            {adjustBy("adj", "a", 1_000_000_000_001), []string{"/delta"}},
		"delta too low":             {adjustBy("adj", "a", -1_000_000_000_001), []string{"/delta"}},
		"overflowing delta":         {adjustBy("adj", "a", math.MinInt64), []string{"/delta"}},
		"negative on hand":          {adjustTo("adj", "a", -1), []string{"/on_hand"}},
		"on hand too high":          {adjustTo("adj", "a", 1_000_000_000_001), []string{"/on_hand"}},
		"negative expectation":      {expecting(adjustBy("adj", "a", 1), -1), []string{"/expected_on_hand"}},
		"no reason":                 {with(func(a *stock.Adjust) { a.Reason = "" }), []string{"/reason"}},
		"a reservation's reason":    {with(func(a *stock.Adjust) { a.Reason = stock.ReasonHeld }), []string{"/reason"}},
		"the import's reason":       {with(func(a *stock.Adjust) { a.Reason = stock.ReasonImported }), []string{"/reason"}},
		"256 characters":            {with(func(a *stock.Adjust) { a.Note = strings.Repeat("ü", 256) }), nil},
		"257 characters":            {with(func(a *stock.Adjust) { a.Note = strings.Repeat("ü", 257) }), []string{"/note"}},
		"everything wrong": {
			stock.Adjust{OnHand: new(int64(-1)), ExpectedOnHand: new(int64(-1)), Note: strings.Repeat("x", 257)},
			[]string{"/expected_on_hand", "/id", "/location", "/note", "/on_hand", "/reason", "/sku"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantPointers(t, test.adjust.Validate(), test.want)
		})
	}
	for _, reason := range stock.AdjustmentReasons() {
		wantPointers(t, with(func(a *stock.Adjust) { a.Reason = reason }).Validate(), nil)
	}
}

func TestValidateImportRow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		row  stock.ImportRow
		want []string
	}{
		"a row":                      {importRow("i", "a", "apple", 1), nil},
		"empty level without a name": {importRow("i", "a", "", 0), nil},
		"the highest quantity":       {importRow("i", "a", strings.Repeat("ü", 256), 1_000_000_000_000), nil},
		"quantity too high":          {importRow("i", "a", "", 1_000_000_000_001), []string{"/on_hand"}},
		"negative quantity":          {importRow("i", "a", "", -1), []string{"/on_hand"}},
		"name too long":              {importRow("i", "a", strings.Repeat("ü", 257), 1), []string{"/name"}},
		"no sku":                     {importRow("i", "", "", 1), []string{"/sku"}},
		"sku with a space":           {importRow("i", "a b", "", 1), []string{"/sku"}},
		"everything wrong":           {stock.ImportRow{OnHand: -1, Name: strings.Repeat("x", 257)}, []string{"/location", "/name", "/on_hand", "/sku"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantPointers(t, test.row.Validate(), test.want)
		})
	}
}
