package crontab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := Parse(`# comment
SHELL=/bin/bash
MAILTO = "a b"

17 *	* * *	root	cd / && run-parts --report /etc/cron.hourly
@daily	www-data	printf '\%s' x=y
HOME=/x
*/5 1-3 1,15 jan mon nobody cat%one\%%two
`, true)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"SHELL": "/bin/bash", "MAILTO": "a b"}
	want := []Entry{
		{Line: 5, Schedule: "17 * * * *", User: "root", Command: "cd / && run-parts --report /etc/cron.hourly", Env: env},
		{Line: 6, Schedule: "@daily", User: "www-data", Command: "printf '%s' x=y", Env: env},
		{Line: 8, Schedule: "*/5 1-3 1,15 jan mon", User: "nobody", Command: "cat", Input: "one%\ntwo\n", Env: map[string]string{"SHELL": "/bin/bash", "MAILTO": "a b", "HOME": "/x"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got, err = Parse("* * * * * A=b cmd\n61 * * * * x\n* * * * *\n@often x\nnonsense\n@reboot echo up\r\n", false)
	if len(got) != 2 || got[0].Command != "A=b cmd" || got[1].Schedule != "@reboot" || got[1].Command != "echo up" {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"line 2: ", "line 3: want a command", "line 4: ", "line 5: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzParse: whatever a crontab says, entries have a schedule and a command.
func FuzzParse(f *testing.F) {
	f.Add("A=b\n* * * * * root x%y\n@daily z\n", true)
	f.Fuzz(func(t *testing.T, text string, system bool) {
		entries, _ := Parse(text, system)
		for _, e := range entries {
			if strings.TrimSpace(e.Command) == "" || e.Schedule == "" || system && e.User == "" || strings.ContainsRune(e.Command+e.Input, 0) {
				t.Errorf("%+v", e)
			}
		}
	})
}
