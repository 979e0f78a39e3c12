package lifecycle

import (
	"runtime/debug"
	"testing"
)

func TestVersionIsWhatTheBuildRecorded(t *testing.T) {
	t.Parallel()
	revision := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "c0ffee"}, {Key: "vcs.modified", Value: "false"}}
	for _, test := range []struct {
		main     string
		settings []debug.BuildSetting
		want     string
	}{
		{"v1.2.3", revision, "v1.2.3"},
		{"(devel)", revision, "c0ffee"},
		{"", revision, "c0ffee"},
		{"(devel)", nil, "unknown"},
	} {
		if got := version(&debug.BuildInfo{Main: debug.Module{Version: test.main}, Settings: test.settings}); got != test.want {
			t.Errorf("%q, %v: got %q, want %q", test.main, test.settings, got, test.want)
		}
	}
}
