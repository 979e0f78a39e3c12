package payload

import (
	"errors"
	"fmt"
	"slices"

	"roundtrip/internal/problem"
)

// CheckSKUs checks the SKUs of a GetStock whose request has them as /skus.
func CheckSKUs(skus []string) error {
	var f problem.Fields
	if n := len(skus); n < 1 || n > MaxSKUs {
		f.Add("/skus", "must have 1 to %d SKUs; this has %d", MaxSKUs, n)
	}
	for i, sku := range skus {
		f.Name(fmt.Sprintf("/skus/%d", i), sku)
	}
	return f.Err()
}

// CheckID checks the id of a request that has it as /id.
func CheckID(id string) error {
	var f problem.Fields
	f.Name("/id", id)
	return f.Err()
}

// InBody makes an error in the path's id, which is where REST has it, one in /id.
func InBody(err error) error {
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || p.Code != problem.Invalid {
		return err
	}
	moved := *p
	moved.Errors = slices.Clone(p.Errors)
	for i, e := range moved.Errors {
		if e.Pointer == "path:id" {
			moved.Errors[i].Pointer = "/id"
		}
	}
	return &moved
}
