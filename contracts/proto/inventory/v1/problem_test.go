package inventoryv1_test

import (
	"reflect"
	"testing"
	"time"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/problem"
	"roundtrip/internal/rpc"
)

func TestProblemSurvivesGRPC(t *testing.T) {
	t.Parallel()
	contract := inventoryv1.ProblemDetails{}
	for _, code := range append(problem.Codes(), "of-tomorrow") {
		want := &problem.Problem{
			Code: code, Detail: "what a person reads",
			Shortages: []problem.Shortage{{SKU: "a", Location: "main", Requested: 6, Available: 5}, {SKU: "b", Location: "north", Requested: 1}},
			Errors:    []problem.FieldError{{Pointer: "/lines/0/sku", Detail: "is no SKU"}, {Pointer: "", Detail: "is too long"}},
			Current:   &problem.Current{ID: "o", Seq: 1 << 53, State: "committed"},
		}
		if code.Retry() == problem.After {
			want.RetryAfter = 3 * time.Second
		}
		if got := rpc.ReadProblem(rpc.Status(want, contract).Err(), contract); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: sent %+v, read %+v", code, want, got)
		}
	}
}

func TestStateNamesConvertBothWays(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"none", "held", "committed", "released", "expired"} {
		s := inventoryv1.StateOf(name)
		if s == inventoryv1.ReservationState_RESERVATION_STATE_UNSPECIFIED || inventoryv1.StateName(s) != name {
			t.Errorf("%s is %s, which is %q", name, s, inventoryv1.StateName(s))
		}
	}
	if got := inventoryv1.StateName(inventoryv1.StateOf("of tomorrow")); got != "" {
		t.Errorf("an unknown name becomes %q", got)
	}
	if got := inventoryv1.StateName(99); got == "" || got == "held" {
		t.Errorf("an unknown value becomes %q", got)
	}
}
