// Package proto tests that the generated code matches the contract that it was
// generated from.
package proto

import (
	"os"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
)

// A change of the contract needs make generate. The test compiles the contract and
// compares it with the descriptor in the generated code.
func TestGeneratedCodeMatchesContract(t *testing.T) {
	t.Parallel()
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{})}
	files, err := compiler.Compile(t.Context(), "inventory/v1/inventory.proto")
	if err != nil {
		t.Fatal(err)
	}
	want := protodesc.ToFileDescriptorProto(files[0])
	got := protodesc.ToFileDescriptorProto(inventoryv1.File_inventory_v1_inventory_proto)
	want.SourceCodeInfo = nil
	if !proto.Equal(got, want) {
		t.Errorf("the generated code does not match the contract; run make generate\ngenerated: %v\ncontract: %v", got, want)
	}
	if _, err := os.Stat("inventory/v1/inventory_grpc.pb.go"); err != nil {
		t.Error(err)
	}
}
