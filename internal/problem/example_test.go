package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"

	"roundtrip/internal/problem"
)

// The log gets the cause of an error. The caller does not.
func Example() {
	cause := errors.New("dial 10.0.3.7: connection refused")
	err := fmt.Errorf("place o1: %w", problem.Wrap(cause, problem.Unavailable, "The stock can't be asked at the moment."))
	fmt.Println("log:   ", err)

	body, _ := json.Marshal(problem.From(err))
	fmt.Println("caller:", string(body))

	var received problem.Problem
	_ = json.Unmarshal(body, &received)
	wait, again := received.Wait()
	fmt.Println("again: ", again, wait)
	// Output:
	// log:    place o1: unavailable: The stock can't be asked at the moment. (dial 10.0.3.7: connection refused)
	// caller: {"type":"urn:roundtrip:problem:unavailable","title":"The service can't be reached or can't work at the moment","status":503,"detail":"The stock can't be asked at the moment.","code":"unavailable"}
	// again:  true 1s
}

// The sender of a wrong request gets all of its errors at once.
func ExampleFields() {
	var wrong problem.Fields
	wrong.Name("/lines/0/sku", "85123 A")
	wrong.Between("/lines/0/quantity", 0, 1, 1_000_000)
	for _, e := range problem.From(wrong.Err()).Errors {
		fmt.Println(e.Pointer, e.Detail)
	}
	// Output:
	// /lines/0/quantity must be between 1 and 1000000
	// /lines/0/sku must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'
}
