// Package proto holds the generated code against the contract that it was
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

// Whoever changes the contract runs make generate: here the contract is compiled
// anew and compared with what the generated code says of itself.
func TestGeneratedCodeIsThatOfTheContract(t *testing.T) {
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
		t.Errorf("the generated code is of another contract; run make generate\ngenerated: %v\ncontract: %v", got, want)
	}
	if _, err := os.Stat("inventory/v1/inventory_grpc.pb.go"); err != nil {
		t.Error(err)
	}
}
