package main

import "testing"

// The nightly run is too late to learn that a mutant's text has moved.
func TestEveryMutantFitsTheCode(t *testing.T) {
	t.Chdir("../..")
	for _, m := range mutants {
		if _, err := m.overlay(t.TempDir()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}
