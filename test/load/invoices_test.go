package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestInvoiceCleaningCountsEveryChange(t *testing.T) {
	t.Parallel()
	const data = `InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,85123A,HEART,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
2,BANK CHARGES,,1,2010-12-01 08:26:00,0.001,,United Kingdom
1,85123A,HEART,2,2010-12-01 08:26:00,0.005,17850.0,United Kingdom
C3,85123A,HEART,-6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
4,22423,CAKESTAND,0,2010-12-01 08:26:00,0,,United Kingdom
1,22423,CAKESTAND,many,2010-12-01 08:26:00,1,17850.0,United Kingdom
1,22423,CAKESTAND,1,2010-12-01 08:26:00,-1,17850.0,United Kingdom
`
	got, counts, err := cleanInvoices(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	want := []invoice{
		{"1", "17850", []line{{"85123A", 6, 255}, {"85123A", 2, 1}}},
		{"2", "guest", []line{{"BANK_20CHARGES", 1, 0}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	wantCounts := cleaning{
		Lines: 7, Invoices: 4, CancellationLines: 1, NonPositiveLines: 1, UnreadableLines: 2, EncodedSKULines: 1,
		RoundedPriceLines: 2, NoCustomerInvoices: 1, LeftOutInvoices: 2, CancellationInvoices: 1,
	}
	if counts != wantCounts {
		t.Errorf("got %+v, want %+v", counts, wantCounts)
	}
}

func TestEncodedSKUsAreUnique(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, code := range []string{"A B", "A_20B", "A_B", "A__B", "A/B", "A-B", "A.B", "AB", "Ä"} {
		sku := encodeSKU(code)
		if other, ok := seen[sku]; ok {
			t.Errorf("%q and %q both become %q", code, other, sku)
		}
		seen[sku] = code
	}
}

func TestInvalidInvoiceFileIsAnError(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "a,b\n1,2\n", "InvoiceNo,StockCode,Quantity,UnitPrice,CustomerID\n1,2\n"} {
		if _, _, err := cleanInvoices(strings.NewReader(data)); err == nil {
			t.Errorf("%q: no error", data)
		}
	}
}
