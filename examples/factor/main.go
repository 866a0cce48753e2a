// The prime factors of a number: its digits as the argument, JSON on stdout.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

const reserve = 200 * time.Millisecond // of the time, for the answer

func main() {
	given := os.Args[len(os.Args)-1]
	number, err := strconv.ParseUint(given, 10, 64)
	if err != nil || number < 2 {
		fail(2, "expected a whole number of at least 2, and got %q", given)
	}
	factors, err := factorize(number, deadline().Add(-reserve))
	if err != nil {
		fail(3, "%v", err)
	}
	json.NewEncoder(os.Stdout).Encode(map[string][]uint64{"factors": factors}) // the result
}

// deadline is when Mayfly ends the call; by hand there is none, and an hour will do.
func deadline() time.Time {
	seconds, err := strconv.ParseFloat(os.Getenv("MAYFLY_DEADLINE"), 64)
	if err != nil {
		return time.Now().Add(time.Hour)
	}
	return time.UnixMilli(int64(seconds * 1000))
}

func factorize(number uint64, until time.Time) ([]uint64, error) {
	var factors []uint64
	for divisor := uint64(2); divisor <= number/divisor; divisor++ {
		if divisor%1_000_000 == 0 && time.Now().After(until) {
			return nil, fmt.Errorf("no time is left, and %d has no factor up to %d", number, divisor)
		}
		for ; number%divisor == 0; number /= divisor {
			factors = append(factors, divisor)
		}
	}
	if number > 1 {
		factors = append(factors, number)
	}
	return factors, nil
}

func fail(status int, words string, values ...any) {
	fmt.Fprintf(os.Stderr, words+"\n", values...) // a log; its end is in the error
	os.Exit(status)
}
