# What a distribution's own programs for users and files do, as root and as others. The base has nothing but its essentials.
FROM base
RUN useradd -m -s /bin/bash app && groupadd -g 5000 extra && usermod -aG extra app && \
    adduser --system --group --home /var/lib/svc svc && adduser --disabled-password --gecos '' second && usermod -u 1500 second && \
    groupmod -g 1501 second && useradd -r -U gone && deluser gone && gpasswd -a second extra && userdel -r second && \
    useradd -m -u 4000 -g extra third && chage -d 0 third && passwd -l third && echo app:secret | chpasswd -e
RUN setpriv --reuid=app --regid=extra --init-groups sh -c 'id; touch /tmp/by-setpriv; mkdir -p /tmp/s/a; touch /etc/no || echo no > /tmp/s/no'; \
    su app -c 'id > /tmp/by-su; cd; umask 027; mkdir -p x/y; mkfifo x/pipe; ln -s y x/link; chgrp extra x/pipe; chgrp -h extra x/link; \
      touch x/file; chmod 2755 x/y; touch x/y/z'; \
    su - third -s /bin/bash -c 'id > by-login'; runuser -u svc -- touch /tmp/by-runuser; chroot --userspec=app:extra --groups=svc / sh -c 'id > /tmp/by-chroot'; \
    start-stop-daemon --start --chuid svc:extra --exec /usr/bin/touch -- /tmp/by-ssd; rm -f /var/log/btmp
RUN mkdir /w && cd /w && touch a b && mkfifo p && ln -s a l && ln a hard && chown 7:8 a && chown -h 9:10 l && chown 11:12 p && chmod 6755 b && \
    mkdir d && chown app:extra d && chmod 2775 d && cp -a . /w2 && install -o app -g extra -m 2750 -d /w3 && \
    install -o 3 -g 4 -m 4711 a /w3/installed && tar cf /t.tar . && mkdir /w4 && tar xpf /t.tar -C /w4 && tar xpf /t.tar --same-owner --xattrs -C /w3 && \
    touch -h -d @1000000000 l && mv l moved && chown --from=7:8 70:80 /w2/a && chown -R --no-dereference app /w4 && \
    perl -e 'mkdir "/w/perl"; chown 5, 6, "/w/perl"; $) = 33; $> = 33; open F, ">/tmp/by-perl"; $> = 0; open F, ">/w/perl/root"' && \
    su app -c 'tar xpf /t.tar -C /home/app 2>/dev/null; cp -a /w /home/app/w-copy'; rm /t.tar; mv /w4 /w5 && cp -a --reflink=never /w5 /w6 && \
    cp /usr/bin/id /usr/local/bin/id-set && chown svc:extra /usr/local/bin/id-set && chmod 6755 /usr/local/bin/id-set
# What somebody may not do to the files of others, and is told when asking.
RUN mkdir /open /roots && chmod 1777 /open && touch /open/theirs /open/all /roots/file && chmod 666 /open/all && chown svc /roots && \
    su app -c 'cd; exec > said 2>&1; for m in r w x; do for f in /etc /etc/passwd /tmp /open/theirs /open/all /roots . x/file; do test -$m $f && echo "$m $f"; done; done; \
      chmod 777 /etc; touch -d 2001-01-01 /roots/file; ln /etc/passwd linked; ln x/file /etc/linked; mv /etc/passwd /etc/moved; mv x/file /etc/; \
      rm -f /open/theirs /roots/file; echo x > /roots/file; echo x > /open/all; truncate -s 9 /etc/group; mkdir /etc/dir; rmdir /roots; \
      mv /open/theirs /open/renamed; id-set; perl -e "open(F, \"+<\", \"/etc/passwd\") or print \"no\n\""; true'
USER app:extra
WORKDIR /home/app/place
COPY --chown=third:extra lang given/
COPY lang /home/app/of-root
RUN touch mine && cp -a given own && id > who && (touch /etc/denied 2>/dev/null && exit 1; true)
USER root
RUN mv /home/app/of-root /home/app/moved && chown -R app /home/app/moved && rm -r /w2
# What is known to deviate.
RUN su app -c 'cd; cat /etc/shadow > theirs; stat -c %u /proc/self/status > processes' 2>/dev/null; true
