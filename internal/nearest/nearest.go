// Package nearest suggests corrections for misspelled words.
package nearest

// To returns the candidate that differs from word by the fewest letters, or "" if more than half of the letters would
// have to change.
func To(word string, candidates []string) string {
	best, fewest := "", len(word)/2+1
	for _, candidate := range candidates {
		if changes := distance(word, candidate); changes < fewest {
			best, fewest = candidate, changes
		}
	}
	return best
}

// distance returns the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
