package updates

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// manager is a package manager: how it is asked, and how told to update.
type manager struct {
	name    string
	program string
	// system are files of which one exists where the manager is the
	// distribution's own, and not a guest of another; none: the program tells it.
	system []string
	// prepare makes the private directory ready.
	prepare func(dir string) error
	// refresh brings the private lists up to date; list and security, which may
	// be absent, compare what is installed with them.
	refresh, list, security command
	parse                   func(list, security []byte) (Listing, error)
	// update installs what the listing has, with the system's own lists; only
	// the security updates if it says so. nil: it knows of none.
	updateAll, updateSecurity func(Listing) []command
}

// command is one call of a package manager.
type command struct {
	argv []string // "{}" stands for the private directory
	env  []string
	ok   []int // exit codes that are no failure, besides 0
	// none is the exit code of an empty list, if nothing is on standard error.
	none int
}

// run is a command by its words.
func run(line string) command { return command{argv: strings.Fields(line)} }

func (c command) accepts(codes ...int) command {
	c.ok = codes
	return c
}

func always(cs ...command) func(Listing) []command {
	return func(Listing) []command { return cs }
}

// managers in the order in which they are looked for.
var managers = []manager{
	{
		name: "apt", program: "apt-get", system: []string{"/var/lib/dpkg/status"},
		prepare: prepareAPT,
		refresh: run("apt-get -q -c {}/apt.conf update"),
		list:    run("apt-get -q -s -c {}/apt.conf dist-upgrade"),
		parse:   parseAPT,
		updateAll: always(run("apt-get -q update"),
			aptInstall("--with-new-pkgs", "upgrade")),
		updateSecurity: func(l Listing) []command {
			argv := []string{"--only-upgrade", "install", "--"}
			for _, p := range l.Packages {
				if p.Security {
					argv = append(argv, p.Name)
				}
			}
			return []command{run("apt-get -q update"), aptInstall(argv...)}
		},
	},
	{
		name: "dnf", program: "dnf",
		refresh:        run(dnf + "--refresh makecache"),
		list:           run(dnf + "-C check-update").accepts(100),
		security:       run(dnf + "-C check-update --security").accepts(100),
		parse:          parseDNF,
		updateAll:      always(run("dnf -q -y --refresh upgrade")),
		updateSecurity: always(run("dnf -q -y --refresh upgrade --security")),
	},
	{
		name: "zypper", program: "zypper",
		refresh:        zypper("refresh"),
		list:           zypper("--xmlout --no-refresh list-updates"),
		security:       zypper("--xmlout --no-refresh list-patches --category security"),
		parse:          parseZypper,
		updateAll:      always(run("zypper --non-interactive update").accepts(102, 103)),
		updateSecurity: always(run("zypper --non-interactive patch --category security").accepts(102, 103)),
	},
	{
		name: "apk", program: "apk", system: []string{"/lib/apk/db/installed", "/usr/lib/apk/db/installed"},
		refresh:   run("apk -q --cache-dir {} update"),
		list:      run("apk --no-network --cache-dir {} version -l <"),
		parse:     parseAPK,
		updateAll: always(run("apk -q --no-progress -U upgrade")),
	},
	{
		name: "pacman", program: "pacman", system: []string{"/etc/pacman.conf"},
		prepare:   preparePacman,
		refresh:   run("pacman -Sy --dbpath {} --logfile /dev/null --noconfirm --noprogressbar"),
		list:      command{argv: strings.Fields("pacman -Qu --dbpath {}"), none: 1},
		parse:     parsePacman,
		updateAll: always(run("pacman -Syu --noconfirm --noprogressbar")),
	},
}

// dnf begins each question to it. Whoever counts machines counts this one once.
const dnf = "dnf -q --setopt=cachedir={}/cache --setopt=logdir={}/log --setopt=*.countme=false "

// zypper asks it without its lock and log, which are the system's.
func zypper(line string) command {
	// 100 and 101: there are updates, or patches.
	c := run("zypper --non-interactive --cache-dir {} "+line).accepts(100, 101)
	c.env = []string{"ZYPP_READONLY_HACK=1", "ZYPP_LOGFILE={}/zypper.log"}
	return c
}

// aptInstall installs without a question: changed configuration files stay.
func aptInstall(words ...string) command {
	c := run("apt-get -qy -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold")
	c.argv = append(c.argv, words...)
	c.env = []string{"DEBIAN_FRONTEND=noninteractive"}
	return c
}

// prepareAPT writes the configuration that is read after the system's
// (apt.conf(5)): other directories, none of the hooks that follow an update.
func prepareAPT(dir string) error {
	if strings.ContainsAny(dir, "\"\n") {
		return fmt.Errorf("cannot check in %q: apt cannot name that directory", dir)
	}
	text := fmt.Sprintf(`Dir::State::Lists "%[1]s/lists";
Dir::Cache "%[1]s";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke-Stats;
`, dir)
	if !strings.HasPrefix(dir, InsideDir+"/") {
		// The host's: the directory is the user's alone, whom _apt cannot be told from.
		text += "APT::Sandbox::User \"root\";\n"
	}
	return errors.Join(os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755), os.MkdirAll(filepath.Join(dir, "archives", "partial"), 0o755),
		os.WriteFile(filepath.Join(dir, "apt.conf"), []byte(text), 0o644))
}

// preparePacman has the private database know what is installed, as
// checkupdates(8) does, and drops the lock of a check that was killed.
func preparePacman(dir string) error {
	db := "/var/lib/pacman"
	if out, err := exec.Command("pacman-conf", "DBPath").Output(); err == nil && filepath.IsAbs(strings.TrimSpace(string(out))) {
		db = strings.TrimSpace(string(out))
	}
	local := filepath.Join(dir, "local")
	for _, f := range []string{local, filepath.Join(dir, "db.lck")} {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.Symlink(filepath.Join(db, "local"), local)
}

// find is the manager of the distribution; nil where there is none of these.
func find() *manager {
	for i := range managers {
		m := &managers[i]
		if _, err := exec.LookPath(m.program); err != nil {
			continue
		}
		if len(m.system) == 0 || slices.ContainsFunc(m.system, func(f string) bool { _, err := os.Stat(f); return err == nil }) {
			return m
		}
	}
	return nil
}
