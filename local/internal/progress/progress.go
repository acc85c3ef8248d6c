// Package progress tells a waiting person what is going on, for how long, and how much of it is done. Work runs in
// named steps. Each step prints a line when it starts, one every few seconds while it runs, and one with its duration
// when it ends. All output is plain lines, so a log file and a CI page look the same as a terminal.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// interval is the time between two lines about a running step: short enough that nobody thinks it hangs, long enough
// that the log of a long build stays readable.
const interval = 5 * time.Second

// Log writes the progress of steps, which may run at the same time.
type Log struct {
	mu       sync.Mutex
	w        io.Writer
	began    time.Time
	cpu      time.Duration // used before this Log began
	finished []outcome
}

type outcome struct {
	step string
	took time.Duration
	cpu  time.Duration // of everything that ran meanwhile, so concurrent steps count each other's
	err  error
}

// New returns a Log that writes to w. The times at the start of its lines count from now.
func New(w io.Writer) *Log {
	return &Log{w: w, began: time.Now(), cpu: cpu()}
}

// Step runs f as the named step. It returns f's error as it is, because the caller knows best how to wrap it.
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
	<-told // no line about the running step may follow the line about its end

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

// tell prints the progress of the step until it is done.
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

// Printf writes a line that belongs to no step, such as a decision that the reader has to know.
func (l *Log) Printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	elapsed := time.Since(l.began).Truncate(time.Second)
	line := fmt.Sprintf(format, args...)
	// A terminal or a pipe that went away must not stop the work.
	_, _ = fmt.Fprintf(l.w, "%3d:%02d  %s\n", int(elapsed.Minutes()), int(elapsed.Seconds())%60, line)
}

// Summary prints the finished steps in the order in which they ended, each with its duration and the CPU time (user and
// system) that this process and its finished children used during the step. The last line has the totals.
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

// short formats a duration for people: 120ms, 4.3s, 6m18s.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// Step is a running piece of work.
type Step struct {
	name  string
	began time.Time

	mu     sync.Mutex
	detail string
}

// Detail sets how far the step is, such as "612 of 2,140 packages". Only the latest detail is printed, so frequent
// calls cost next to nothing.
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
