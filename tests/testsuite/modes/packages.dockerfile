# What maintainer scripts, servers, and the package managers of languages make of it.
FROM base
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    acl anacron at attr build-essential ca-certificates cargo cpio cron curl dbus exim4-daemon-light file git golang-go iputils-ping less libcap2-bin \
    locales logrotate man-db netcat-openbsd nginx nodejs npm openssh-client openssh-server postgresql postgresql-client procps python3 \
    python3-pip redis-server rsync ruby screen sudo tmux uuid-runtime vim-tiny wget zip && \
    apt-get clean && rm -rf /var/lib/apt/lists/*
RUN useradd -m -s /bin/bash app && groupadd -g 5000 extra && adduser --system --group --home /var/lib/svc svc && \
    echo 'app ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/app && chmod 440 /etc/sudoers.d/app
RUN mkdir /w && cd /w && touch a b && mkfifo p && ln -s a l && ln a hard && chown 7:8 a && chown -h 9:10 l && chown 11:12 p && chmod 6755 b && mkdir d && \
    chown app:extra d && chmod 2775 d && rsync -aHAX /w/ /w5/ && (find . | cpio -pdm --quiet /w9) && cp /bin/sleep capable && setcap cap_net_raw+ep capable && \
    cp -a capable capable2 && ln capable capable3 && chown 5:6 capable3 && \
    python3 -c 'import os, shutil; os.chown("/w/b", 40, 41); shutil.copytree("/w", "/w6", symlinks=True, ignore=lambda d, n: ["p"]); os.setegid(7); os.seteuid(8); open("/tmp/by-python", "w")' && \
    ruby -e 'require "fileutils"; FileUtils.chown_R 50, 51, "/w6"; File.lchown(52, 53, "/w6/l"); Process::Sys.setegid(7); Process::Sys.seteuid(8); File.write("/tmp/by-ruby", "")' && \
    zip -qry /tmp/z.zip /w5 && (mkdir /unzipped && cd /unzipped && python3 -m zipfile -e /tmp/z.zip .) && rm /tmp/z.zip && \
    setfacl -m u:root:rwx,g::r d && setfacl -d -m g:0:rx d && mkdir d/acl && setfattr -n user.mine -v x a && cp -a a a-attr && \
    su app -c 'cp -a /w ~/w-copy; rsync -a /w/ ~/w-sync; touch ~/attr; setfattr -n user.his -v y ~/attr; setfattr -n user.his -v y /w/b; true' 2>/dev/null
COPY --chown=app:extra lang /src
USER app
WORKDIR /home/app/place
ENV GIT_AUTHOR_DATE="1000000000 +0000" GIT_COMMITTER_DATE="1000000000 +0000"
RUN sudo -u svc sh -c 'id; touch /tmp/by-svc' && sudo install -o svc -m 640 /dev/null /tmp/by-sudo && git init -q repo && cd repo && \
    git config user.name x && git config user.email x@y && touch mine && git add . && git commit -qm x && git clone -q . ../clone && \
    (touch /etc/denied 2>/dev/null && exit 1; true) && sudo --preserve-env git -c safe.directory='*' clone -q . /tmp/roots
# The first has to notice that it may not write where root installs.
RUN cd /src/pip && pip install --break-system-packages --no-build-isolation --no-index . && ~/.local/bin/greet && \
    sudo pip install --break-system-packages --no-build-isolation --no-index .
RUN npm install --prefix ~/node --offline /src/npm && npm install -g --prefix ~/.npm-global --offline --install-links /src/npm && \
    ~/.npm-global/bin/greet-js && sudo npm install -g --offline --install-links /src/npm && greet-js && rm -rf ~/.npm/_logs && sudo rm -rf /root/.npm/_logs
RUN cargo install --offline --path /src/cargo --root ~/.cargo-root && ~/.cargo-root/bin/greet-rs && cd /src/go && go install . && ~/go/bin/greet-go && go clean -cache && \
    cd /src/gem && gem build -q greet-rb.gemspec && gem install --local --user-install greet-rb-1.0.gem && sudo gem install --local greet-rb-1.0.gem && greet-rb
RUN sudo -u postgres /usr/lib/postgresql/*/bin/pg_ctl -D /tmp/pg initdb -o --no-sync >/dev/null && echo '* * * * * true' | crontab - && \
    ssh-keygen -q -t ed25519 -N '' -f ~/key && sudo -u postgres /usr/lib/postgresql/*/bin/pg_ctl -w -D /tmp/pg -o '-k /tmp/pg -h ""' start >/dev/null && \
    sudo -u postgres psql -h /tmp/pg -Atc 'select 42' > ~/answer && sudo -u postgres /usr/lib/postgresql/*/bin/pg_ctl -w -D /tmp/pg stop >/dev/null
# From their registries, where they are reached.
ENV SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca NODE_EXTRA_CA_CERTS=/run/secrets/ca GOSUMDB=off
RUN --mount=type=secret,id=ca,mode=0444 pip install --break-system-packages --no-cache-dir --no-compile click==8.1.7 && \
    npm install --no-audit --no-fund --prefix ~/node left-pad@1.3.0 semver@7.5.4 && go install golang.org/x/example/hello@v0.0.0-20250915201037-7f05d217867b && \
    rm -rf ~/.npm ~/.cache
USER root
# What is known to deviate.
RUN mkdir /w/acl && setfacl -m u:app:rwx /w/acl; true
RUN rm -rf /run/sudo /var/lib/sudo /run/postgresql /var/log/*
