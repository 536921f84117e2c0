package robustness

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/version"
)

// figures are what the runs of one traffic came to.
type figures struct {
	Name       string `json:"name"`
	Runs       int    `json:"runs"`
	Operations int    `json:"operations"`
	Events     int    `json:"watch_events"`
	Violations int    `json:"violations"`
	Undecided  int    `json:"undecided"`
	Broken     int    `json:"broken"`
	Seeds      string `json:"seeds"`
	Faults     int    `json:"faults"`
	Date       string `json:"date"`
	Commit     string `json:"commit"`
}

func (f *figures) add(one outcome) {
	f.Runs++
	f.Operations += one.operations
	f.Events += one.events
	switch one.verdict {
	case broken:
		f.Broken++
	case violated:
		f.Violations++
	case undecided:
		f.Undecided++
	case sound:
	}
}

// results is the file that the documentation is made from.
type results struct {
	Suite   string     `json:"suite"`
	Passed  int        `json:"passed"`
	Failed  int        `json:"failed"`
	Skipped []struct{} `json:"skipped"`
	Version string     `json:"version"`
	Date    string     `json:"date"`
	Commit  string     `json:"commit"`
	Traffic []figures  `json:"traffic"`
}

// write puts the figures in the place of the last ones of the same traffic.
func (f *figures) write(path string) error {
	all := results{Suite: "robustness"}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &all)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	commit, _ := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	f.Date, f.Commit = time.Now().UTC().Format(time.DateOnly), strings.TrimSpace(string(commit))
	all.Traffic = append(slices.DeleteFunc(all.Traffic, func(other figures) bool { return other.Name == f.Name }), *f)
	slices.SortFunc(all.Traffic, func(a, b figures) int { return strings.Compare(a.Name, b.Name) })
	all.Version, all.Date, all.Commit, all.Skipped = version.Version, f.Date, f.Commit, []struct{}{}
	all.Passed, all.Failed = 0, 0
	for _, row := range all.Traffic {
		bad := row.Violations + row.Undecided + row.Broken
		all.Passed += row.Runs - bad
		all.Failed += bad
	}
	text, err = json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}
