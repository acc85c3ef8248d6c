package progress

import (
	"bytes"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAStepTellsItsStartItsProgressAndItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		err := New(&out).Step("build kubernetes", func(s *Step) error {
			s.Detail("%d of %d packages", 612, 2140)
			time.Sleep(12 * time.Second)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Join([]string{
			"  0:00  build kubernetes …",
			"  0:05  build kubernetes: running for 5s, 612 of 2140 packages",
			"  0:10  build kubernetes: running for 10s, 612 of 2140 packages",
			"  0:12  build kubernetes: done in 12s",
			"",
		}, "\n")
		if out.String() != want {
			t.Errorf("got\n%s\nwant\n%s", &out, want)
		}
	})
}

func TestAFailedStepReturnsItsErrorUnchangedAndIsMarkedInTheSummary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log, broken := New(&out), errors.New("broken")
		_ = log.Step("one", func(*Step) error { time.Sleep(90 * time.Second); return nil })
		if err := log.Step("two", func(*Step) error { return broken }); err != broken {
			t.Errorf("got error %v, want it as it was: %v", err, broken)
		}
		out.Reset()
		log.Summary()
		// The CPU times are the machine's own.
		want := regexp.MustCompile(`^ *TIME +CPU  STEP\n *1m30s +\S+  one\n *0s +\S+  two  failed\n *1m30s +\S+  in all\n$`)
		if !want.MatchString(out.String()) {
			t.Errorf("got\n%s\nwant\n%s", &out, want)
		}
	})
}

func TestTheSummaryTellsTheCPUTimeOfAStepsCommands(t *testing.T) {
	var out bytes.Buffer
	log := New(&out)
	if err := log.Step("busy", func(*Step) error {
		// Counting to a million takes a shell far longer than the table's rounding.
		return exec.Command("sh", "-c", "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done").Run()
	}); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	log.Summary()
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n")[1:] {
		used, err := time.ParseDuration(strings.Fields(line)[1])
		if err != nil || used < 100*time.Millisecond {
			t.Errorf("%q: CPU time %v (%v), want that of the shell's loop", line, used, err)
		}
	}
}

func TestStepsAtTheSameTimeKeepTheirLinesWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := New(&out)
		ended := make(chan error)
		for _, name := range []string{"left", "right"} {
			go func() {
				ended <- log.Step(name, func(s *Step) error { time.Sleep(7 * time.Second); return nil })
			}()
		}
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if lines := strings.Count(out.String(), "\n"); lines != 6 {
			t.Errorf("got %d lines, want start, progress and end of two steps:\n%s", lines, &out)
		}
	})
}
