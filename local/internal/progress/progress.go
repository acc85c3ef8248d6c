// Package progress tells a person who waits what is going on: what, for how
// long, and how far of how much. Work is done in named steps; each prints a
// line when it starts, one every few seconds while it runs, and one with its
// time when it ends. Plain lines, so that a log file and a CI page read the
// same as a terminal.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// interval between two lines about a step that is still running: often enough
// that nobody wonders whether it hangs, seldom enough that a build of minutes
// stays readable.
const interval = 5 * time.Second

// Log writes the progress of steps, which may run at the same time.
type Log struct {
	mu       sync.Mutex
	w        io.Writer
	began    time.Time
	cpu      time.Duration // used before began
	finished []outcome
}

type outcome struct {
	step string
	took time.Duration
	cpu  time.Duration // of all that ran meanwhile: steps at the same time count each other's
	err  error
}

// New returns a Log that writes to w. The times in front of its lines count
// from now.
func New(w io.Writer) *Log {
	return &Log{w: w, began: time.Now(), cpu: cpu()}
}

// Step runs f as the named step and returns its error as it is: the caller
// knows better what to wrap it in.
func (l *Log) Step(name string, f func(s *Step) error) error {
	s, before := &Step{name: name, began: time.Now()}, cpu()
	l.Printf("%s …", name)

	done, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		l.tell(s, done)
	}()
	err := f(s)
	close(done)
	<-told // no line about a running step may follow the one about its end

	took := time.Since(s.began)
	l.mu.Lock()
	l.finished = append(l.finished, outcome{name, took, cpu() - before, err})
	l.mu.Unlock()
	if err != nil {
		l.Printf("%s: failed after %s", name, short(took))
	} else {
		l.Printf("%s: done in %s", name, short(took))
	}
	return err
}

// tell prints where the step stands, until it is done.
func (l *Log) tell(s *Step, done <-chan struct{}) {
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticks.C:
			l.Printf("%s", s)
		}
	}
}

// Printf writes one line that belongs to no step, for what a reader has to
// know: a choice that was made, a thing that was left out.
func (l *Log) Printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	elapsed := time.Since(l.began).Truncate(time.Second)
	// A terminal or a pipe that went away must not stop the work.
	_, _ = fmt.Fprintf(l.w, "%3d:%02d  %s\n", int(elapsed.Minutes()), int(elapsed.Seconds())%60, fmt.Sprintf(format, args...))
}

// Summary prints the finished steps in the order of their ends, each with its
// time and the CPU time (user and system) of this process and its finished
// children during the step, and at last both in all.
func (l *Log) Summary() {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows := [][3]string{{"TIME", "CPU", "STEP"}}
	for _, o := range l.finished {
		name := o.step
		if o.err != nil {
			name += "  failed"
		}
		rows = append(rows, [3]string{short(o.took), short(o.cpu), name})
	}
	rows = append(rows, [3]string{short(time.Since(l.began)), short(cpu() - l.cpu), "in all"})
	var widths [2]int
	for _, row := range rows {
		for i := range widths {
			widths[i] = max(widths[i], len(row[i]))
		}
	}
	for _, row := range rows {
		_, _ = fmt.Fprintf(l.w, "%*s  %*s  %s\n", widths[0], row[0], widths[1], row[1], row[2])
	}
}

// short is a duration as a person reads it: 120ms, 4.3s, 6m18s.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// Step is a piece of work that is going on.
type Step struct {
	name  string
	began time.Time

	mu     sync.Mutex
	detail string
}

// Detail says how far the step is, for instance "612 of 2,140 packages". Only
// the latest detail is printed, so it costs next to nothing to call often.
func (s *Step) Detail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detail = fmt.Sprintf(format, args...)
}

// String is the line about a running step.
func (s *Step) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := fmt.Sprintf("%s: running for %s", s.name, short(time.Since(s.began)))
	if s.detail != "" {
		line += ", " + s.detail
	}
	return line
}
