# What a directory shared into a container does, one line a case: `name: what happened`. The same program runs under
# another runtime on the same host, and the lines are compared. perl-base is on every Debian, so nothing is compiled.
#
# perl file-semantics.pl DIRECTORY
use strict;
use warnings;
use Errno qw(:POSIX);
use Fcntl qw(:DEFAULT :flock :seek :mode);
use POSIX ();
use Socket;

my $top = shift @ARGV or die "which directory?\n";
$| = 1;
umask 022;

# Numbers of x86-64. Source: asm/unistd_64.h and the headers of each call.
use constant {
    SYS_mmap => 9, SYS_munmap => 11, SYS_sendfile => 40, SYS_pread64 => 17, SYS_pwrite64 => 18, SYS_fsync => 74,
    SYS_fdatasync => 75, SYS_getcwd => 79, SYS_setxattr => 188, SYS_getxattr => 191, SYS_listxattr => 194,
    SYS_removexattr => 197, SYS_inotify_add_watch => 254, SYS_utimensat => 280, SYS_fallocate => 285,
    SYS_inotify_init1 => 294, SYS_mknod => 133, SYS_renameat2 => 316, SYS_copy_file_range => 326, SYS_statfs => 137, SYS_msync => 26,
    AT_FDCWD => -100, RENAME_NOREPLACE => 1, RENAME_EXCHANGE => 2, O_TMPFILE => 020200000, O_DIRECT => 040000,
    SYS_prctl => 157, SYS_capset => 126, PR_SET_KEEPCAPS => 8, CAPABILITY_VERSION_3 => 0x20080522, CAP_DAC_OVERRIDE => 1 << 1,
    SEEK_DATA => 3, SEEK_HOLE => 4, PUNCH_HOLE => 3, ZERO_RANGE => 16,
};

my @cases;
sub case_ { my ($name, $body) = @_; push @cases, [$name, $body] }

# The name of the last call's error, or the word that says that it worked.
sub errname {
    my ($number) = @_;
    for my $name (sort keys %!) { no strict 'refs'; return $name if exists &{"Errno::$name"} && &{"Errno::$name"}() == $number }
    return "errno $number";
}
sub outcome { my ($worked) = @_; my $number = $! + 0; return $worked ? 'ok' : errname($number) }
sub sys { my $result = syscall($_[0], @_[1 .. $#_]); return $result }
sub put { my ($path, $text) = @_; open(my $fh, '>', $path) or die "create $path: $!"; print $fh $text; close $fh or die "write $path: $!" }
sub get { my ($path) = @_; open(my $fh, '<', $path) or return outcome(0); local $/; my $text = <$fh>; return defined $text ? $text : '' }
sub kind { my ($path) = @_; my @st = lstat $path or return outcome(0); my $m = $st[2];
    return S_ISREG($m) ? 'file' : S_ISDIR($m) ? 'directory' : S_ISLNK($m) ? 'link' : S_ISFIFO($m) ? 'fifo' : S_ISSOCK($m) ? 'socket' : S_ISCHR($m) ? 'device' : 'other' }
sub entries { my ($dir) = @_; opendir(my $dh, $dir) or return outcome(0); return join ' ', sort grep { !/^\.\.?$/ } readdir $dh }
# Makes one of each kind in d: how it went, and whose they are.
sub entries_made {
    my @worked = (outcome(sysopen my $fh, 'd/a', O_WRONLY | O_CREAT), outcome(mkdir 'd/e'), outcome(symlink 'x', 'd/l'), outcome(link 'd/a', 'd/h'), outcome(rename 'd/a', 'd/b'));
    return join ' ', @worked, map { my @s = lstat $_; @s ? "$s[4]:$s[5]" : 'none' } map { "d/$_" } qw(b e l);
}
# Runs the body in a child, as another user when one is given; what it returns is the result.
sub child {
    my ($body, $uid) = @_;
    pipe(my $read, my $write) or die;
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        if (defined $uid) { POSIX::setgid($uid); $) = "$uid $uid"; POSIX::setuid($uid) }
        my $said = eval { $body->() } // "died: $@";
        syswrite $write, $said;
        POSIX::_exit(0);
    }
    close $write;
    local $/;
    my $said = <$read>;
    waitpid $pid, 0;
    return $said;
}

# The system calls below want variables: a literal cannot be written to.
sub renameat2 { my ($from, $to, $flags) = @_; return sys(SYS_renameat2, AT_FDCWD, $from, AT_FDCWD, $to, $flags) == 0 }
sub setx { my ($path, $name, $value, $flags) = @_; return sys(SYS_setxattr, $path, $name, $value, length $value, $flags) == 0 }
sub getx { my ($path, $name) = @_; my $b = "\0" x 256; my $n = sys(SYS_getxattr, $path, $name, $b, 256); return $n < 0 ? outcome(0) : substr $b, 0, $n }
sub listx { my ($path) = @_; my $b = "\0" x 256; my $n = sys(SYS_listxattr, $path, $b, 256); return $n < 0 ? outcome(0) : join ' ', sort grep { /^user/ } split /\0/, substr $b, 0, $n }
sub removex { my ($path, $name) = @_; return sys(SYS_removexattr, $path, $name) == 0 }
sub settimes { my ($path, $times) = @_; return sys(SYS_utimensat, AT_FDCWD, $path, $times, 0) == 0 }
sub range { my ($type, $start, $length) = @_; return pack 's s x4 q q i x4', $type, SEEK_SET, $start, $length, 0 }

# --- names
case_ 'rename replaces a file' => sub { put('a', 1); put('b', 2); my $r = outcome(rename 'a', 'b'); "$r, " . get('b') . ', ' . entries('.') };
case_ 'rename keeps the inode' => sub { put('a', 1); my $i = (stat 'a')[1]; rename 'a', 'b'; $i == (stat 'b')[1] ? 'same' : 'other' };
case_ 'rename onto an empty directory' => sub { mkdir 'a'; mkdir 'b'; outcome(rename 'a', 'b') };
case_ 'rename onto a full directory' => sub { mkdir 'a'; mkdir 'b'; put('b/x', 1); outcome(rename 'a', 'b') };
case_ 'rename a file onto a directory' => sub { put('a', 1); mkdir 'b'; outcome(rename 'a', 'b') };
case_ 'rename a directory onto a file' => sub { mkdir 'a'; put('b', 1); outcome(rename 'a', 'b') };
case_ 'rename into itself' => sub { mkdir 'a'; outcome(rename 'a', 'a/b') };
case_ 'rename what is missing' => sub { outcome(rename 'a', 'b') };
case_ 'rename a directory with an open file below' => sub { mkdir 'a'; put('a/x', 1); open(my $fh, '+<', 'a/x') or die; rename 'a', 'b'; syswrite $fh, 'later'; close $fh; get('b/x') };
case_ 'renameat2 without replacing' => sub { put('a', 1); put('b', 2); outcome(renameat2('a', 'b', RENAME_NOREPLACE)) };
case_ 'renameat2 that exchanges' => sub { put('a', 1); put('b', 2); my $r = outcome(renameat2('a', 'b', RENAME_EXCHANGE)); "$r, " . get('a') . get('b') };
case_ 'name of 255 bytes' => sub { my $n = 'n' x 255; put($n, 1); get($n) . ' ' . length entries('.') };
case_ 'name of 256 bytes' => sub { outcome(sysopen my $fh, 'n' x 256, O_WRONLY | O_CREAT) };
case_ 'name of two-byte characters' => sub { my $n = "\xc3\xa4" x 100; put($n, 1); entries('.') eq $n ? 'same' : 'other' };
case_ 'name with every byte but slash and zero' => sub { my $n = join '', map { chr } grep { $_ != 47 } 1 .. 255; my $a = substr $n, 0, 200; put($a, 1); entries('.') eq $a ? 'same' : 'other' };
case_ 'path over 4096 bytes' => sub { outcome(sysopen my $fh, join('/', ('d') x 2100), O_RDONLY) };
case_ 'directories 60 deep' => sub { for (1 .. 60) { mkdir 'd' or die; chdir 'd' or die } my $buffer = "\0" x 4096; my $n = sys(SYS_getcwd, $buffer, 4096); scalar(() = substr($buffer, 0, $n) =~ m{/d}g) . ' levels' };
case_ 'mkdir twice' => sub { mkdir 'a'; outcome(mkdir 'a') };
case_ 'rmdir of a full directory' => sub { mkdir 'a'; put('a/x', 1); outcome(rmdir 'a') };
case_ 'rmdir of a file' => sub { put('a', 1); outcome(rmdir 'a') };
case_ 'unlink of a directory' => sub { mkdir 'a'; outcome(POSIX::unlink('a')) };
case_ 'create with O_EXCL twice' => sub { put('a', 1); outcome(sysopen my $fh, 'a', O_WRONLY | O_CREAT | O_EXCL) };
case_ 'open a directory for writing' => sub { mkdir 'a'; outcome(sysopen my $fh, 'a', O_WRONLY) };
case_ 'open a file with O_DIRECTORY' => sub { put('a', 1); outcome(sysopen my $fh, 'a', O_RDONLY | O_DIRECTORY) };
case_ 'a file as a directory' => sub { put('a', 1); outcome(sysopen my $fh, 'a/b', O_RDONLY) };
# --- links
case_ 'hard link' => sub { put('a', 1); my $r = outcome(link 'a', 'b'); my @a = stat 'a'; my @b = stat 'b'; "$r, $a[3] links, " . ($a[1] == $b[1] ? 'same' : 'other') };
case_ 'hard link sees writes through the other name' => sub { put('a', 1); link 'a', 'b'; put('a', 'new'); get('b') };
case_ 'hard link after unlink of the first name' => sub { put('a', 1); link 'a', 'b'; unlink 'a'; (stat 'b')[3] . ' links, ' . get('b') };
case_ 'hard link to a directory' => sub { mkdir 'a'; outcome(link 'a', 'b') };
case_ 'hard link onto a name' => sub { put('a', 1); put('b', 1); outcome(link 'a', 'b') };
case_ 'rename onto a hard link of the same file' => sub { put('a', 1); link 'a', 'b'; my $r = outcome(rename 'a', 'b'); "$r, " . entries('.') };
case_ 'symbolic link' => sub { symlink 'where/ever', 'a'; readlink('a') . ', ' . kind('a') };
case_ 'symbolic link of 4095 bytes' => sub { my $t = 't' x 4095; my $r = outcome(symlink $t, 'a'); $r eq 'ok' ? length readlink 'a' : $r };
case_ 'loop of symbolic links' => sub { symlink 'a', 'b'; symlink 'b', 'a'; outcome(sysopen my $fh, 'a', O_RDONLY) };
case_ 'open a symbolic link with O_NOFOLLOW' => sub { put('a', 1); symlink 'a', 'b'; outcome(sysopen my $fh, 'b', O_RDONLY | O_NOFOLLOW) };
case_ 'dangling symbolic link' => sub { symlink 'a', 'b'; put('b', 'through'); get('a') };
# --- open files
case_ 'unlink while open' => sub { put('a', 'before'); open(my $fh, '+<', 'a') or die; unlink 'a'; my $links = (stat $fh)[3]; sysseek $fh, 0, SEEK_END; syswrite $fh, ' after'; sysseek $fh, 0, SEEK_SET; sysread $fh, my $text, 100; "$links links, $text, " . entries('.') };
case_ 'truncate after unlink' => sub { put('a', 'x' x 100); open(my $fh, '+<', 'a') or die; unlink 'a'; my $r = outcome(truncate $fh, 10); "$r, " . (stat $fh)[7] };
case_ 'chmod after unlink' => sub { put('a', 'x'); open(my $fh, '+<', 'a') or die; unlink 'a'; my $r = outcome(chmod 0600, $fh); sprintf '%s, %o', $r, (stat $fh)[2] & 07777 };
case_ 'replaced while open' => sub { put('a', 'old'); put('b', 'new'); open(my $fh, '<', 'a') or die; rename 'b', 'a'; sysread $fh, my $text, 10; "$text, " . get('a') };
case_ 'file without a name' => sub { my $r = outcome(sysopen my $fh, '.', O_RDWR | O_TMPFILE, 0600); return $r unless $r eq 'ok'; syswrite $fh, 'text'; (stat $fh)[7] . ' bytes, ' . entries('.') };
case_ 'working directory removed' => sub { mkdir 'a'; chdir 'a'; my $r = outcome(rmdir '../a'); my $c = outcome(sysopen my $fh, 'x', O_WRONLY | O_CREAT); "$r, $c" };
case_ 'appends of four writers' => sub {
    my @pids = map { my $who = $_; my $pid = fork // die; if ($pid == 0) { sysopen(my $fh, 'log', O_WRONLY | O_CREAT | O_APPEND) or POSIX::_exit(1); syswrite $fh, "$who" x 50 . "\n" for 1 .. 100; POSIX::_exit(0) } $pid } 1 .. 4;
    waitpid $_, 0 for @pids;
    my @lines = split /\n/, get('log');
    my @whole = grep { /^(\d)\1{49}$/ } @lines;
    scalar(@lines) . ' lines, ' . scalar(@whole) . ' whole' };
case_ 'append goes to the end whatever the offset' => sub { put('a', 'abc'); sysopen(my $fh, 'a', O_RDWR | O_APPEND) or die; sysseek $fh, 0, SEEK_SET; syswrite $fh, 'd'; get('a') };
case_ 'write to a file opened for reading' => sub { put('a', 1); open(my $fh, '<', 'a') or die; no warnings; outcome(defined syswrite $fh, 'x') };
case_ 'offset shared by a child' => sub { put('a', 'abcdef'); open(my $fh, '<', 'a') or die; child(sub { sysread $fh, my $t, 3; $t }); sysread $fh, my $t, 3; $t };
case_ 'pread leaves the offset' => sub { put('a', 'abcdef'); open(my $fh, '<', 'a') or die; my $b = "\0" x 3; sys(SYS_pread64, fileno $fh, $b, 3, 2); sysread $fh, my $t, 2; "$b, $t" };
case_ 'pwrite beyond the end' => sub { sysopen(my $fh, 'a', O_RDWR | O_CREAT) or die; my $t = 'x'; sys(SYS_pwrite64, fileno $fh, $t, 1, 10); (my $s = get('a')) =~ s/\0/./g; $s };
case_ 'read at the end' => sub { put('a', 'x'); open(my $fh, '<', 'a') or die; sysread $fh, my $t, 10; my $n = sysread $fh, $t, 10; "$n" };
case_ 'O_TRUNC' => sub { put('a', 'long text'); sysopen(my $fh, 'a', O_WRONLY | O_TRUNC) or die; -s 'a' };
case_ 'fsync and fdatasync' => sub { sysopen(my $fh, 'a', O_RDWR | O_CREAT) or die; syswrite $fh, 'x'; my $f = sys(SYS_fsync, fileno $fh); my $d = sys(SYS_fdatasync, fileno $fh); "$f $d" };
case_ 'fsync of a directory' => sub { mkdir 'a'; sysopen(my $fh, 'a', O_RDONLY | O_DIRECTORY) or die; outcome(sys(SYS_fsync, fileno $fh) == 0) };
case_ 'execute from the share' => sub { put('a', "#!/bin/sh\necho ran \$1\n"); chmod 0755, 'a'; my $out = `./a it`; chomp $out; $out };
case_ 'write to a running program' => sub { system('cp', '/bin/busybox', 'sleep'); my $pid = fork // die; if ($pid == 0) { no warnings 'exec'; exec './sleep', '30'; POSIX::_exit(1) } for (1 .. 1000) { last if readlink("/proc/$pid/exe") =~ /sleep$/; select undef, undef, undef, 0.01 } my $r = outcome(sysopen my $fh, 'sleep', O_WRONLY); kill 9, $pid; waitpid $pid, 0; $r };
# --- locks
case_ 'flock excludes another process' => sub { put('a', 1); open(my $fh, '+<', 'a') or die; flock $fh, LOCK_EX or die; child(sub { open(my $mine, '+<', 'a') or die; outcome(flock $mine, LOCK_EX | LOCK_NB) }) };
case_ 'flock shared twice' => sub { put('a', 1); open(my $fh, '<', 'a') or die; flock $fh, LOCK_SH or die; child(sub { open(my $mine, '<', 'a') or die; outcome(flock $mine, LOCK_SH | LOCK_NB) }) };
case_ 'flock goes with its holder' => sub { put('a', 1); child(sub { open(my $mine, '+<', 'a') or die; flock $mine, LOCK_EX; 'held' }); open(my $fh, '+<', 'a') or die; outcome(flock $fh, LOCK_EX | LOCK_NB) };
case_ 'record lock excludes another process' => sub { put('a', 'x' x 100); open(my $fh, '+<', 'a') or die; fcntl($fh, F_SETLK, range(F_WRLCK, 0, 50)) or die "lock: $!"; child(sub { open(my $mine, '+<', 'a') or die; my @r = map { fcntl($mine, F_SETLK, range(F_WRLCK, $_, 10)) ? 'ok' : $!{EAGAIN} || $!{EACCES} ? 'held' : "$!" } 0, 60; "@r" }) };
# --- contents
case_ 'shared mapping is written back' => sub {
    sysopen(my $fh, 'a', O_RDWR | O_CREAT) or die; truncate $fh, 4096;
    my $at = sys(SYS_mmap, 0, 4096, 3, 1, fileno $fh, 0); return outcome(0) if $at < 0 && $at > -4096;
    my $text = 'mapped';
    pipe(my $r, my $w) or die; syswrite $w, $text; sys(0, fileno $r, $at, length $text);
    my $sync = sys(SYS_msync, $at, 4096, 4); sys(SYS_munmap, $at, 4096); "$sync, " . substr get('a'), 0, 6 };
case_ 'shared mapping between processes' => sub {
    sysopen(my $fh, 'a', O_RDWR | O_CREAT) or die; truncate $fh, 4096;
    my $mine = sys(SYS_mmap, 0, 4096, 3, 1, fileno $fh, 0); return outcome(0) if $mine < 0 && $mine > -4096;
    child(sub { pipe(my $r, my $w) or die; syswrite $w, 'child'; sys(0, fileno $r, $mine, 5); 'done' });
    unpack 'P5', pack 'Q', $mine };
case_ 'mapping sees a write' => sub { put('a', 'x' x 4096); sysopen(my $fh, 'a', O_RDWR) or die; my $at = sys(SYS_mmap, 0, 4096, 1, 1, fileno $fh, 0); return outcome(0) if $at < 0 && $at > -4096; syswrite $fh, 'written'; unpack 'P7', pack 'Q', $at };
case_ 'sparse file' => sub { sysopen(my $fh, 'a', O_RDWR | O_CREAT) or die; truncate $fh, 1 << 32; my @s = stat $fh; "$s[7] bytes, " . ($s[12] < 100 ? 'few' : 'many') . ' blocks' };
case_ 'hole and data' => sub { sysopen(my $fh, 'a', O_RDWR | O_CREAT) or die; sysseek $fh, 1 << 20, SEEK_SET; syswrite $fh, 'x'; sys(SYS_fsync, fileno $fh); my $d = sysseek $fh, 0, SEEK_DATA; defined $d && $d == 1 << 20 ? 'data found' : 'data at ' . ($d // outcome(0)) };
case_ 'fallocate' => sub { sysopen(my $fh, 'a', O_RDWR | O_CREAT) or die; my $r = outcome(sys(SYS_fallocate, fileno $fh, 0, 0, 65536) == 0); "$r, " . (stat $fh)[7] };
case_ 'punch a hole' => sub { put('a', 'x' x 12288); sysopen(my $fh, 'a', O_RDWR) or die; my $r = outcome(sys(SYS_fallocate, fileno $fh, PUNCH_HOLE, 4096, 4096) == 0); my $t = get('a'); "$r, " . ($t =~ tr/\0//) . ' zeros' };
case_ 'truncate extends with zeros' => sub { put('a', 'x'); truncate 'a', 5; (my $t = get('a')) =~ s/\0/./g; $t };
case_ 'truncate shortens' => sub { put('a', 'abcdef'); truncate 'a', 3; get('a') };
case_ 'copy_file_range' => sub { put('a', 'abcdef'); open(my $in, '<', 'a') or die; sysopen(my $out, 'b', O_WRONLY | O_CREAT) or die; my $n = sys(SYS_copy_file_range, fileno $in, 0, fileno $out, 0, 6, 0); "$n, " . get('b') };
case_ 'sendfile' => sub { put('a', 'abcdef'); open(my $in, '<', 'a') or die; sysopen(my $out, 'b', O_WRONLY | O_CREAT) or die; my $n = sys(SYS_sendfile, fileno $out, fileno $in, 0, 6); "$n, " . get('b') };
case_ 'a megabyte written and read' => sub { my $t = join '', map { chr(($_ * 7 + ($_ >> 8)) & 255) } 0 .. 1048575; put('a', $t); get('a') eq $t ? 'same' : 'other' };
# --- attributes
case_ 'mode and umask' => sub { sysopen(my $fh, 'a', O_WRONLY | O_CREAT, 0666) or die; mkdir 'd', 0777; sprintf '%o %o', (stat 'a')[2] & 07777, (stat 'd')[2] & 07777 };
case_ 'chmod' => sub { put('a', 1); chmod 04751, 'a'; sprintf '%o', (stat 'a')[2] & 07777 };
case_ 'chown' => sub { put('a', 1); my $r = outcome(chown 1234, 5678, 'a'); my @s = stat 'a'; "$r, $s[4]:$s[5]" };
case_ 'chown clears set-user-id' => sub { put('a', 1); chmod 04755, 'a'; chown 1234, 5678, 'a'; sprintf '%o', (stat 'a')[2] & 07777 };
case_ 'a write of another user clears set-user-id' => sub { put('a', 1); chmod 06777, 'a'; chmod 0777, '.'; my $r = child(sub { open(my $fh, '>>', 'a') or return outcome(0); syswrite $fh, 'x'; 'written' }, 1000); sprintf '%s, %o', $r, (stat 'a')[2] & 07777 };
case_ 'set-group-id directory passes its group on' => sub { mkdir 'd'; chown 0, 4242, 'd'; chmod 02775, 'd'; put('d/f', 1); mkdir 'd/e'; sprintf '%d %d %o', (stat 'd/f')[5], (stat 'd/e')[5], (stat 'd/e')[2] & 07777 };
case_ 'another user may not read' => sub { put('a', 1); chmod 0600, 'a'; chmod 0777, '.'; child(sub { outcome(sysopen my $fh, 'a', O_RDONLY) }, 1000) };
case_ 'another user may not write' => sub { put('a', 1); chmod 0777, '.'; child(sub { outcome(sysopen my $fh, 'a', O_WRONLY) }, 1000) };
case_ 'another user may not make an entry' => sub { mkdir 'd'; chmod 0777, '.'; child(sub { outcome(sysopen my $fh, 'd/x', O_WRONLY | O_CREAT) }, 1000) };
case_ 'a file belongs to the user who made it' => sub { chmod 0777, '.'; child(sub { put('a', 1); 'made' }, 1000); my @s = stat 'a'; "$s[4]:$s[5]" };
case_ 'another user may not chmod' => sub { put('a', 1); chmod 0777, '.'; child(sub { outcome(chmod 0777, 'a') }, 1000) };
case_ 'sticky directory' => sub { mkdir 'd'; chmod 01777, 'd'; put('d/a', 1); chmod 0777, '.'; child(sub { outcome(unlink 'd/a') }, 1000) };
case_ 'supplementary group may write' => sub { put('a', 1); chown 0, 777, 'a'; chmod 0660, 'a'; chmod 0777, '.'; child(sub { $) = '1000 1000 777'; POSIX::setuid(1000); outcome(sysopen my $fh, 'a', O_RDWR) }) };
case_ 'supplementary group may make entries' => sub { mkdir 'd'; chown 0, 777, 'd'; chmod 0770, 'd'; chmod 0777, '.'; child(sub { $) = '1000 1000 777'; POSIX::setuid(1000); entries_made() }) };
case_ 'who may override permissions makes entries' => sub { mkdir 'd'; chmod 0777, '.'; child(sub { sys(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0); POSIX::setgid(1000); $) = '1000 1000'; POSIX::setuid(1000); my ($version, $sets) = (pack('Ii', CAPABILITY_VERSION_3, 0), pack('I6', (CAP_DAC_OVERRIDE) x 2, 0, 0, 0, 0)); sys(SYS_capset, $version, $sets) == 0 or return outcome(0); entries_made() }) };
case_ 'set-group-id of who is not in the group' => sub { mkdir 'd'; chown 0, 777, 'd'; chmod 02777, 'd'; chmod 0777, '.'; child(sub { umask 0; sysopen my $fh, 'd/a', O_WRONLY | O_CREAT, 02775 or return outcome(0); mkdir 'd/e', 02775; 'made' }, 1000); join ' ', map { sprintf '%o', (stat $_)[2] & 07777 } 'd/a', 'd/e' };
case_ 'times to the nanosecond' => sub { put('a', 1); my $r = outcome(settimes('a', pack 'q4', 1_000_000_000, 123_456_789, 1_100_000_000, 987_654_321)); my $out = `stat -c '%x %y' a`; my @ns = $out =~ /\.(\d{9})/g; my @s = stat 'a'; "$r, $s[8] $s[9], @ns" };
case_ 'another user may not set times' => sub { put('a', 1); chmod 0777, '.'; child(sub { outcome(utime 1, 1, 'a') }, 1000) };
case_ 'a write changes mtime' => sub { put('a', 1); utime 1000, 1000, 'a'; open(my $fh, '>>', 'a') or die; syswrite $fh, 'x'; close $fh; (stat 'a')[9] > 1000 ? 'changed' : 'kept' };
case_ 'an entry changes the mtime of its directory' => sub { mkdir 'd'; utime 1000, 1000, 'd'; put('d/a', 1); (stat 'd')[9] > 1000 ? 'changed' : 'kept' };
case_ 'links of a directory' => sub { mkdir 'd'; mkdir "d/$_" for 1 .. 3; (stat 'd')[3] };
# --- extended attributes
case_ 'extended attribute' => sub { put('a', 1); my $r = outcome(setx('a', 'user.colour', 'blue', 0)); "$r, " . getx('a', 'user.colour') };
case_ 'extended attribute that is missing' => sub { put('a', 1); getx('a', 'user.none') };
case_ 'extended attribute made twice' => sub { put('a', 1); setx('a', 'user.x', 'y', 1); outcome(setx('a', 'user.x', 'y', 1)) };
case_ 'extended attributes listed' => sub { put('a', 1); setx('a', $_, 'y', 0) for 'user.b', 'user.a'; listx('a') };
case_ 'extended attribute removed' => sub { put('a', 1); setx('a', 'user.x', 'y', 0); my $r = outcome(removex('a', 'user.x')); "$r, " . getx('a', 'user.x') };
# --- special files
case_ 'fifo' => sub { my $r = POSIX::mkfifo('a', 0600) ? 'ok' : outcome(0); $r eq 'ok' ? kind('a') : $r };
case_ 'device node' => sub { my $name = 'a'; my $r = outcome(sys(SYS_mknod, $name, S_IFCHR | 0600, 0x103) == 0); my @s = lstat $name; $r eq 'ok' ? kind($name) . " $s[6]" : $r };
case_ 'unix socket' => sub { socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; my $r = outcome(bind $s, pack_sockaddr_un('a')); return $r unless $r eq 'ok'; listen $s, 1; my $c = child(sub { socket(my $mine, AF_UNIX, SOCK_STREAM, 0); outcome(connect $mine, pack_sockaddr_un('a')) }); kind('a') . ", $c" };
# --- big directories
case_ 'two thousand entries' => sub { mkdir 'd'; put("d/f$_", '') for 1 .. 2000; my @n = split / /, entries('d'); my %u = map { $_ => 1 } @n; scalar(@n) . ' listed, ' . scalar(keys %u) . ' different' };
case_ 'removing while reading a directory' => sub { mkdir 'd'; put("d/f$_", '') for 1 .. 500; opendir(my $dh, 'd') or die; while (defined(my $n = readdir $dh)) { unlink "d/$n" if $n =~ /^f/ } rewinddir $dh; my @left = grep { /^f/ } readdir $dh; scalar(@left) . ' left' };
case_ 'seek in a directory' => sub { mkdir 'd'; put("d/f$_", '') for 1 .. 50; opendir(my $dh, 'd') or die; readdir $dh for 1 .. 20; my $at = telldir $dh; my $n = readdir $dh; readdir $dh for 1 .. 10; seekdir $dh, $at; readdir($dh) eq $n ? 'same' : 'other' };
# --- watching
case_ 'inotify' => sub {
    my $fd = sys(SYS_inotify_init1, 04000); return outcome(0) if $fd < 0; my $dir = '.'; my $w = sys(SYS_inotify_add_watch, $fd, $dir, 0x100 | 0x2 | 0x200 | 0x40 | 0x80); return outcome(0) if $w < 0;
    put('a', 'x'); rename 'a', 'b'; unlink 'b'; my $b = "\0" x 4096; open(my $fh, '<&=', $fd) or die; my $n = sysread $fh, $b, 4096; my @seen;
    for (my $at = 0; $at < ($n // 0);) { my (undef, $mask, undef, $len) = unpack 'i I I I', substr $b, $at, 16; my $name = unpack 'Z*', substr $b, $at + 16, $len; push @seen, sprintf '%x:%s', $mask, $name; $at += 16 + $len }
    "@seen" };
case_ 'longest name as the file system says' => sub { my ($p, $b) = ('.', "\0" x 120); sys(SYS_statfs, $p, $b) == 0 or return outcome(0); (unpack 'q11', $b)[8] };

my $index = 0;
for my $case (@cases) {
    my ($name, $body) = @$case;
    my $dir = "$top/" . $index++;
    mkdir $dir or die "make $dir: $!";
    chdir $dir or die "enter $dir: $!";
    my $said = child(sub { $body->() });
    $said =~ s/\n/\\n/g;
    $said =~ s/ at \S+ line \d+\.?//g;
    print "$name: $said\n";
}
