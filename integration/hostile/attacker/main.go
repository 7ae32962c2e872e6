// Command attacker is what a hostile container runs: each argument names something that root inside can do to reach beyond its
// container. It writes "attacking" when it has begun and a line "still N" a few times a second as long as it goes on.
//
//	await             begins when it gets SIGUSR1
//	stop, kill        sends the signal to each process that appears in its pid namespace, as early as it can
//	inotify           makes inotify instances and watches until there are none left for its user
//	epoll             adds watches to epoll instances, as many as it has descriptors for
//	flood             writes newlines on stdout and stderr without end
//	idle              nothing, beside which others attack
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func await() {
	awaited := make(chan os.Signal, 1)
	signal.Notify(awaited, syscall.SIGUSR1)
	fmt.Println("waiting")
	<-awaited
}

func main() {
	attacks := map[string]func(){
		"stop": func() { hit(sigStop) }, "kill": func() { hit(sigKill) },
		"inotify": takeInotify, "epoll": takeEpoll, "flood": flood, "idle": func() {}, "await": await,
	}
	fmt.Println("here")
	for _, name := range os.Args[1:] {
		attack := attacks[name]
		if attack == nil {
			fmt.Fprintf(os.Stderr, "no attack is called %q\n", name)
			os.Exit(2)
		}
		attack()
	}
	fmt.Println("attacking")
	for n := 1; ; n++ {
		time.Sleep(200 * time.Millisecond)
		fmt.Println("still", n)
	}
}
