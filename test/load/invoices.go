package main

import (
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// The limits of an order, from contracts/openapi/orders.yaml.
const (
	maxLines    = 2000
	maxQuantity = 1_000_000
	maxPrice    = 1_000_000_000_000
	maxName     = 64
)

// invoice is one real purchase, as an order.
type invoice struct {
	number   string
	customer string
	lines    []line
}

type line struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

// cleaning counts the changes to the real data, so that nothing is dropped silently.
type cleaning struct {
	Lines, Invoices int

	CancellationLines    int // of invoices whose number starts with C
	NonPositiveLines     int // returns, write-offs, corrections
	UnreadableLines      int // quantity or price is not a number, or exceeds the limits of an order
	EncodedSKULines      int // the code has characters that a SKU may not have
	RoundedPriceLines    int // the price has more than two decimals
	NoCustomerInvoices   int // have no customer, and got the customer "guest"
	LeftOutInvoices      int // are cancellations, have no line left, or have too many lines
	CancellationInvoices int // left-out invoices that are cancellations
	TooLongInvoices      int // left-out invoices with more lines than an order may have
}

// readInvoices reads the retailer's lines (InvoiceNo, StockCode, Description,
// Quantity, InvoiceDate, UnitPrice, CustomerID, Country), gzipped if the name
// ends in .gz. It returns the invoices in the order of their first lines.
func readInvoices(path string) ([]invoice, cleaning, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, cleaning{}, err
	}
	defer file.Close()
	var in io.Reader = file
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(file); err != nil {
			return nil, cleaning{}, fmt.Errorf("read %s: %w", path, err)
		}
	}
	invoices, c, err := cleanInvoices(in)
	if err != nil {
		return nil, c, fmt.Errorf("read %s: %w", path, err)
	}
	return invoices, c, nil
}

func cleanInvoices(in io.Reader) ([]invoice, cleaning, error) {
	var c cleaning
	rows := csv.NewReader(in)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if err != nil {
		return nil, c, err
	}
	column := map[string]int{}
	for i, name := range header {
		column[name] = i
	}
	for _, name := range []string{"InvoiceNo", "StockCode", "Quantity", "UnitPrice", "CustomerID"} {
		if _, ok := column[name]; !ok {
			return nil, c, fmt.Errorf("missing column %s", name)
		}
	}

	var order []*invoice
	byNumber := map[string]*invoice{}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, c, err
		}
		field := func(name string) string { return strings.Clone(strings.TrimSpace(row[column[name]])) }
		c.Lines++
		number := field("InvoiceNo")
		inv, ok := byNumber[number]
		if !ok {
			inv = &invoice{number: number, customer: strings.TrimSuffix(field("CustomerID"), ".0")}
			byNumber[number] = inv
			order = append(order, inv)
		}
		if l, ok := c.clean(number, field("StockCode"), field("Quantity"), field("UnitPrice")); ok {
			inv.lines = append(inv.lines, l)
		}
	}

	c.Invoices = len(order)
	var invoices []invoice
	for _, inv := range order {
		switch {
		case isCancellation(inv.number):
			c.LeftOutInvoices++
			c.CancellationInvoices++
			continue
		case len(inv.lines) == 0:
			c.LeftOutInvoices++
			continue
		case len(inv.lines) > maxLines:
			c.LeftOutInvoices++
			c.TooLongInvoices++
			continue
		case inv.customer == "":
			c.NoCustomerInvoices++
			inv.customer = "guest"
		}
		invoices = append(invoices, *inv)
	}
	return invoices, c, nil
}

func isCancellation(number string) bool { return strings.HasPrefix(number, "C") }

// clean makes an order's line from an invoice's line. ok is false if the line is left
// out.
func (c *cleaning) clean(number, code, quantity, price string) (line, bool) {
	if isCancellation(number) {
		c.CancellationLines++
		return line{}, false
	}
	n, err := strconv.ParseInt(quantity, 10, 64)
	if err != nil || n > maxQuantity {
		c.UnreadableLines++
		return line{}, false
	}
	if n <= 0 {
		c.NonPositiveLines++
		return line{}, false
	}
	minor, rounded, ok := minorUnits(price)
	sku := encodeSKU(code)
	if !ok || len(sku) == 0 || len(sku) > maxName {
		c.UnreadableLines++
		return line{}, false
	}
	if rounded {
		c.RoundedPriceLines++
	}
	if sku != code {
		c.EncodedSKULines++
	}
	return line{SKU: sku, Quantity: n, UnitPrice: minor}, true
}

// minorUnits turns a decimal price into hundredths, rounding half up.
func minorUnits(price string) (minor int64, rounded, ok bool) {
	p, ok := new(big.Rat).SetString(price)
	if !ok || p.Sign() < 0 {
		return 0, false, false
	}
	p.Mul(p, big.NewRat(100, 1))
	rounded = !p.IsInt()
	p.Add(p, big.NewRat(1, 2))
	whole := new(big.Int).Quo(p.Num(), p.Denom())
	if !whole.IsInt64() || whole.Int64() > maxPrice {
		return 0, false, false
	}
	return whole.Int64(), rounded, true
}

var plainSKU = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)

// encodeSKU replaces every byte that a SKU may not have by _ and two hexadecimal
// digits. It encodes the underscore, too, so that different codes stay different.
func encodeSKU(code string) string {
	if plainSKU.MatchString(code) {
		return code
	}
	var b strings.Builder
	for _, char := range []byte(code) {
		if plainSKU.Match([]byte{char}) {
			b.WriteByte(char)
		} else {
			fmt.Fprintf(&b, "_%02X", char)
		}
	}
	return b.String()
}

func (c cleaning) print(out io.Writer) {
	fmt.Fprintf(out, "%d invoices with %d lines were read. Left out: %d invoices (%d of them cancellations, %d too long),\n",
		c.Invoices, c.Lines, c.LeftOutInvoices, c.CancellationInvoices, c.TooLongInvoices)
	fmt.Fprintf(out, "%d lines of cancellations, %d with a quantity of zero or less, %d that could not be read.\n",
		c.CancellationLines, c.NonPositiveLines, c.UnreadableLines)
	fmt.Fprintf(out, "Changed: %d lines got an encoded SKU, %d a rounded price; %d invoices got the customer \"guest\".\n",
		c.EncodedSKULines, c.RoundedPriceLines, c.NoCustomerInvoices)
}
