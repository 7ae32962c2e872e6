// Package hostile tests that one pod can never reach beyond itself: attackers run as root in containers, beside a bystander pod
// whose execs, starts, stops and logs are served while the attack still runs and after it, and nothing is left at the end. How
// long the bystander waits is measured by make bench-hostile and asserted nowhere.
package hostile
