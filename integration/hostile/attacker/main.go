// Command attacker is what a hostile container runs: each argument names something that root inside can do to reach beyond its
// container. It writes "attacking" when it has begun and a line "still N" a few times a second as long as it goes on.
//
//	await             begins when it gets SIGUSR1
//	stop, kill        sends the signal to each process that appears in its pid namespace, as early as it can
//	inotify           makes inotify instances and watches until there are none left for its user
//	epoll             adds watches to epoll instances, as many as it has descriptors for
//	orphan            has the kernel kill it when its parent ends (no attack: others' launches must not be its end)
//	flood             writes newlines on stdout and stderr without end
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// askForDeath has the kernel kill this process when its parent's thread ends (prctl(2), PR_SET_PDEATHSIG).
func askForDeath() {
	if _, _, err := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0); err != 0 {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// await blocks until SIGUSR1.
func await() {
	awaited := make(chan os.Signal, 1)
	signal.Notify(awaited, syscall.SIGUSR1)
	fmt.Println("waiting")
	<-awaited
}

// once is an attack that goes on by itself when it has begun.
func once(begin func()) func() func() {
	return func() func() {
		begin()
		return func() { time.Sleep(10 * time.Millisecond) }
	}
}

func main() {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // see hit
	attacks := map[string]func() (step func()){
		"stop":    func() func() { return hit(syscall.SIGSTOP) },
		"kill":    func() func() { return hit(syscall.SIGKILL) },
		"inotify": once(takeInotify), "epoll": once(takeEpoll), "flood": once(flood), "await": once(await), "orphan": once(askForDeath),
	}
	step := func() { time.Sleep(10 * time.Millisecond) }
	for _, name := range os.Args[1:] {
		attack := attacks[name]
		if attack == nil {
			fmt.Fprintf(os.Stderr, "no attack is called %q\n", name)
			os.Exit(2)
		}
		step = attack()
	}
	fmt.Println("attacking")
	said := time.Now()
	for n := 1; ; {
		step()
		if time.Since(said) > 200*time.Millisecond {
			fmt.Println("still", n)
			n++
			said = time.Now()
		}
	}
}
