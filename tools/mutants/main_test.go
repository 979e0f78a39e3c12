package main

import "testing"

// Without this test, only the nightly run would find a mutant that no longer matches the
// source.
func TestEveryMutantMatchesTheSource(t *testing.T) {
	t.Chdir("../..")
	for _, m := range mutants {
		if _, err := m.overlay(t.TempDir()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}
