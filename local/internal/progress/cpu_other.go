//go:build !unix

package progress

import "time"

// cpu is zero on systems that do not report it.
func cpu() time.Duration { return 0 }
